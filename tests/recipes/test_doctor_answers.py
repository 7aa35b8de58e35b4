"""The doctor on models that answer questions: whole checkpoints, bare configurations, what is missing."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from tests.models.vlms import FOLDERS
from torch import Tensor, nn

from sfumato import data, losses, models, norms
from sfumato.base import BadInput
from sfumato.norms.inspect import inspect
from sfumato.norms.leak import first_leak
from sfumato.recipes.answering import QUESTION
from sfumato.recipes.doctor import Diagnosis, Wish, diagnose, rules
from sfumato.recipes.doctor_case import Asked, Case
from sfumato.recipes.doctor_data import MADE_UP, Rows, public_rows
from sfumato.recipes.doctor_findings import findings, rows_loss
from sfumato.recipes.doctor_measure import micro_batch, one, plain_loss
from sfumato.recipes.doctor_models import open_case
from sfumato.recipes.doctor_signal import chunks, first_gradient
from sfumato.recipes.run import Adapter, Data, Privacy
from sfumato.recipes.sets import sets_of

LOOK = Wish(measure=False)
SHORT: dict[str, Any] = {"max_question": 6, "max_answer": 4}


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("vlms")
    for kind in ("llava", "blip", "coca"):
        FOLDERS[kind](path / kind)
    return path


@pytest.fixture
def llava(kept: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(kept / "llava", tmp_path / "llava"))


def asked(folder: Path, **more) -> Asked:
    return Asked(model=str(folder), **SHORT | more)


def uses(found: Diagnosis) -> set[str]:
    assert found.seen is not None, found.refusal
    return {use.name for use in found.seen.uses}


# ---------------------------------------------------------------- whole checkpoints


def test_checkpoint_is_opened_as_training_opens_it(kept: Path) -> None:
    case = open_case(asked(kept / "llava"))
    assert isinstance(case.loss_fn, losses.AnswerLoss)
    started = models.start_vlm(kept / "llava", **SHORT)
    rows, batch = case.batch(3), micro_batch(case, 3, 2).batch
    wanted = started.family.encode(torch.zeros(8, 8, 3, dtype=torch.uint8).numpy(), "what is this", "a word")
    assert {name: tensor.shape[1:] for name, tensor in rows.items()} == {n: t.shape for n, t in wanted.items()}
    assert (rows["labels"] != -100).sum(1).max() <= SHORT["max_answer"]
    torch.testing.assert_close(
        case.loss_fn(case.model, batch), losses.AnswerLoss(started.family.logits)(started.model, batch)
    )
    trained = {name for name, p in started.model.named_parameters() if p.requires_grad}
    assert set(norms.trainable(case.model)) == trained == uses(diagnose(asked(kept / "llava"), LOOK))


def test_public_lengths_are_those_asked_for(kept: Path) -> None:
    short, long = (open_case(Asked(model=str(kept / "llava"), max_question=q, max_answer=4)) for q in (5, 9))
    assert long.batch(1)["input_ids"].shape[1] - short.batch(1)["input_ids"].shape[1] == 4
    assert any("max question 9, max answer 4" in note for note in long.notes)
    said = open_case(asked(kept / "llava", prompt="tell me: {question} now"))
    assert any("tell me: {question} now" in note for note in said.notes)


@pytest.mark.every(4)
@pytest.mark.parametrize(
    ("kind", "train"),
    [(k, train) for k in ("llava", "blip") for train in ("heads", "last-1", "bias", "lora", "dora")]
    + [("coca", "lora")],
)
def test_every_choice_of_training_is_listed_by_rule(kind: str, train: str, kept: Path) -> None:
    targets = ("all-linear",) if kind == "coca" else ()  # torch's attention carries none
    adapter = Adapter(rank=2, targets=targets) if train.endswith("ora") else Adapter()
    found = diagnose(asked(kept / kind, train=train, adapter=adapter), LOOK)
    theirs = models.Adapter(rank=2, targets=targets) if adapter.rank == 2 else None
    started = models.start_vlm(kept / kind, train=train, adapter=theirs, **SHORT)
    assert found.refusal is None
    assert found.seen is not None
    assert uses(found) == set(started.training.trainable)
    rows = rules(found.seen)
    assert all("nothing" not in row["measured in"] for row in rows)
    assert sum(row["parameters"] for row in rows) == sum(
        p.numel() for p in started.model.parameters() if p.requires_grad
    )


def test_frozen_half_precision_is_told(kept: Path) -> None:
    half = Adapter(rank=2, frozen_dtype="bfloat16")
    found = diagnose(asked(kept / "llava", train="lora", adapter=half), LOOK)
    assert (found.refusal, found.frozen_types) == (None, ("bfloat16",))
    assert diagnose(asked(kept / "llava", train="lora"), LOOK).frozen_types == ("float32",)


def test_learned_tokens_are_refused_in_the_words_of_training(kept: Path, tmp_path: Path) -> None:
    for train in ("prompt", "prefix"):
        for folder in (kept / "llava", bare(kept / "llava", tmp_path / train)):
            assert "lora or dora, got" in str(diagnose(Asked(model=str(folder), train=train), LOOK).refusal)


# ---------------------------------------------------------------- groups


def test_additive_loss_is_clipped_by_example_and_by_groups(kept: Path) -> None:
    assert diagnose(asked(kept / "blip"), LOOK).unit == "example"
    privacy = Privacy(epsilon=None, noise_multiplier=1.0, expected_batch_size=64, steps=10)
    wish = Wish(measure=False, records=1000, privacy=privacy)
    found = diagnose(asked(kept / "blip", unit="group", group_size=4), wish)
    assert (found.refusal, found.unit, found.trouble) == (None, "group", ())
    assert found.plan is not None
    assert found.signal is not None
    assert (found.plan.presence, found.signal.gradient.num_units) == (2.0, 16)


def test_groups_gradient_is_that_of_the_mean_loss_of_its_rows(kept: Path) -> None:
    case = open_case(asked(kept / "blip", train="heads", unit="group"))
    rows = Rows(case=case, number=16, inputs=MADE_UP, real=False)
    found = first_gradient(rows, chunks(rows, 4), 1e9)
    parts = [take(case.batch(16), slice(n, n + 4)) for n in range(0, 16, 4)]
    means = [case.loss_fn(case.model, part).mean() for part in parts]  # pyright: ignore[reportCallIssue]
    flat = [torch.cat([g.flatten() for g in torch.autograd.grad(mean, trained(case))]).double() for mean in means]
    gram = torch.stack(flat) @ torch.stack(flat).T
    assert found.num_units == 4
    assert found.mean_norm**2 == pytest.approx(float(gram.sum() - gram.trace()) / 12, rel=1e-3)
    assert found.median_norm == pytest.approx(float(gram.diag().sqrt().median()), rel=1e-3)


def take(batch: dict[str, Tensor], rows: slice) -> dict[str, Tensor]:
    return {name: tensor[rows] for name, tensor in batch.items()}


def trained(case: Case) -> list[nn.Parameter]:
    return [p for p in case.model.parameters() if p.requires_grad]


@pytest.mark.parametrize("unit", ["example", "group"])
def test_a_step_of_both_sides_is_measured(unit: str, kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sfumato.recipes.doctor_measure.TIMED", 1)
    what = asked(kept / "llava", train="lora", adapter=Adapter(rank=2), unit=unit)
    what = replace(what, group_size=2) if unit == "group" else what
    what = Asked.of(json.loads(json.dumps(what.to_dict())))  # as a fresh process is asked
    assert what.adapter == Adapter(rank=2)
    for private in (True, False):
        assert one(what, private=private, rows=4)["seconds_per_micro_batch"] > 0
    case = open_case(what)
    batch = micro_batch(case, 4, 2)
    rows = case.loss_fn(case.model, batch.batch)  # pyright: ignore[reportCallIssue]
    torch.testing.assert_close(plain_loss(case, batch), rows.sum())


# ---------------------------------------------------------------- rows that reach each other


def test_module_that_mixes_rows_is_named(kept: Path) -> None:
    case = open_case(asked(kept / "llava"))
    assert first_leak(case.model, rows_loss(case), case.batch) is None
    where = "model.multi_modal_projector.linear_1"
    case.model.get_submodule(where).register_forward_hook(lambda module, args, out: out - out.mean(0, keepdim=True))
    assert first_leak(case.model, rows_loss(case), case.batch) == where
    seen = inspect(case.model, rows_loss(case), case.batch(4), synthetic=case.synthetic)
    (reason,) = findings(case, seen)
    assert reason.where == (where,)


# ---------------------------------------------------------------- signal on public questions


@pytest.mark.parametrize("spec", ["shape-questions:40", "shapes:40"])
def test_public_questions_and_captions_are_asked(spec: str, kept: Path) -> None:
    rows = public_rows(open_case(asked(kept / "blip")), Data(spec=spec), 8)
    family = models.start_vlm(kept / "blip", **SHORT).family
    captioned = sets_of(Data(spec=spec), 16).train
    asks = data.AskedRows(
        captioned=captioned, encode=family.encode, question=None if captioned.has_questions else QUESTION
    )
    batch = rows.case.batch(3)
    for place, index in enumerate(np.random.default_rng(0).choice(len(captioned), 8, replace=False)[:3]):
        row = asks[int(index)]
        assert set(batch) == set(row)
        assert all(torch.equal(batch[key][place], tensor) for key, tensor in row.items())
    assert rows.real
    assert rows.inputs.startswith(spec.partition(":")[0])


def test_signal_is_measured_on_public_questions(kept: Path) -> None:
    privacy = Privacy(epsilon=None, noise_multiplier=1.0, expected_batch_size=64, steps=10)
    known = Wish(measure=False, records=1000, privacy=privacy, data=Data(spec="shape-questions:40"))
    found = diagnose(asked(kept / "blip", train="heads"), known)
    assert found.signal is not None
    assert found.signal.gradient.inputs.startswith("shape-questions")
    with pytest.raises(BadInput, match="holds questions"):
        diagnose(Asked(model="pico", image_size=16, channels=1), known)


# ---------------------------------------------------------------- what is missing


def bare(folder: Path, into: Path) -> Path:
    into.mkdir(parents=True)
    shutil.copy(folder / "config.json", into)
    return into


def test_configuration_alone_is_looked_at_and_says_so(kept: Path, tmp_path: Path) -> None:
    folder = bare(kept / "llava", tmp_path / "bare")
    found = diagnose(Asked(model=str(folder), train="lora"), LOOK)
    assert found.refusal is None
    assert any("no processor is looked at" in note for note in found.notes)
    assert all(".lora_" in name for name in uses(found))
    assert "--max-question" in str(diagnose(asked(folder), LOOK).refusal)


@pytest.mark.parametrize(
    ("pattern", "named"),
    [("*processor_config.json", "preprocessor_config.json"), ("tokenizer*.json", "tokenizer.json")],
)
def test_a_missing_part_is_named_by_its_file(llava: Path, pattern: str, named: str) -> None:
    for file in llava.glob(pattern):
        file.unlink()
    refusal = str(diagnose(asked(llava), LOOK).refusal)
    assert f"{named} is missing" in refusal
    assert str(llava) in refusal


def test_a_class_without_a_family_is_refused_with_those_that_work(tmp_path: Path) -> None:
    config = transformers.InstructBlipConfig(architectures=["InstructBlipForConditionalGeneration"])
    config.save_pretrained(tmp_path)
    refusal = str(diagnose(Asked(model=str(tmp_path)), LOOK).refusal)
    for word in ("'instructblip' has no family", "LlavaForConditionalGeneration", "PrivateGradients"):
        assert word in refusal
    transformers.ViTConfig(architectures=["ViTModel"]).save_pretrained(tmp_path)
    assert "neither captions nor embeds" in str(diagnose(Asked(model=str(tmp_path)), LOOK).refusal)


def test_settings_that_would_be_ignored_are_refused(kept: Path) -> None:
    assert "--max-question" in str(diagnose(asked(kept / "llava", max_tokens=9), LOOK).refusal)
    assert "no adapter" in str(diagnose(asked(kept / "llava", adapter=Adapter(rank=2)), LOOK).refusal)
    for other in (
        Asked(model="pico", max_answer=3),
        Asked(model="micro", kind="towers", prompt="{question}"),
        Asked(model="small-conv", max_tokens=3),
        Asked(model="timm:test_vit", max_question=3),
        asked(kept / "llava", channels=1),
        asked(kept / "llava", kind="captioner"),
        asked(kept / "coca", batch_norm="group"),
    ):
        assert "leave it out" in str(diagnose(other, LOOK).refusal), other
    assert "puts no adapter" in str(diagnose(Asked(model="pico", adapter=Adapter(alpha=2.0)), LOOK).refusal)
    assert "image_size asks for 99" in str(diagnose(asked(kept / "llava", image_size=99), LOOK).refusal)


def test_weights_that_do_not_fit_are_refused_before_they_are_read(kept: Path) -> None:
    found = diagnose(asked(kept / "llava"), Wish(measure=False, memory_gb=1e-5))
    assert "GB in float32" in str(found.refusal)
