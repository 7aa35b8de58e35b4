"""The doctor: what it says of each kind of model, on made-up rows."""

import json
import math
from pathlib import Path

import pytest
import torch
import transformers
from torch import Tensor, nn

from sfumato import losses, norms
from sfumato.base import BadInput, Refused
from sfumato.norms.inspect import inspect
from sfumato.plan import Example, Plan
from sfumato.recipes import doctor, doctor_cost, doctor_measure
from sfumato.recipes.doctor import Wish, diagnose, facts, rules
from sfumato.recipes.doctor_advice import advice
from sfumato.recipes.doctor_case import Asked, Case
from sfumato.recipes.doctor_cost import Cost, Line, sizes_below
from sfumato.recipes.doctor_findings import findings, group_norm_twin, works_with
from sfumato.recipes.doctor_measure import _private, micro_batch, one
from sfumato.recipes.doctor_models import open_case
from sfumato.recipes.doctor_signal import Gradient, Signal, first_gradient, made_up, signal_of
from sfumato.recipes.run import Data, Privacy
from sfumato.sampling import Poisson

LOOK = Wish(measure=False)
TEXT = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
IDS = {"bos_token_id": 2, "pad_token_id": 0, "eos_token_id": 3}
IMAGE = {**TEXT, "image_size": 16, "patch_size": 8}


def folder(config, name: str, into: Path) -> str:
    """A folder with a configuration and no weights."""
    config.architectures = [name]
    config.save_pretrained(into)
    return str(into)


@pytest.fixture
def clip(tmp_path: Path) -> str:
    config = transformers.CLIPConfig(
        text_config={**TEXT, **IDS, "vocab_size": 50, "max_position_embeddings": 8, "eos_token_id": 49},
        vision_config=IMAGE,
        projection_dim=8,
    )
    return folder(config, "CLIPModel", tmp_path / "clip")


def blip(tmp_path: Path, name: str) -> str:
    text = {**TEXT, **IDS, "encoder_hidden_size": 16, "vocab_size": 50, "max_position_embeddings": 16}
    config = transformers.BlipConfig(text_config=text, vision_config=IMAGE, projection_dim=8)
    return folder(config, name, tmp_path / name)


def llava(tmp_path: Path) -> str:
    config = transformers.LlavaConfig(
        vision_config=transformers.CLIPVisionConfig(**{**IMAGE, "num_hidden_layers": 2}),
        text_config=transformers.LlamaConfig(**TEXT, num_key_value_heads=2, vocab_size=60),
        image_token_index=55,
    )
    return folder(config, "LlavaForConditionalGeneration", tmp_path / "llava")


# ---------------------------------------------------------------- kinds of models


def test_clip_folder_trains_by_groups_and_every_parameter_is_listed(clip: str) -> None:
    found = diagnose(Asked(model=clip), LOOK)
    assert (found.trainable, found.unit, found.refusal) == (True, "group", None)
    assert found.seen is not None
    case = open_case(Asked(model=clip))
    trainable = norms.trainable(case.model)
    assert found.seen.num_trainable == sum(p.numel() for p in trainable.values())
    rows = rules(found.seen)
    assert sum(row["tensors"] for row in rows) == len(trainable)
    assert {"linear", "conv2d", "layer_norm", "embedding", "expand"} <= {row["measured in"] for row in rows}
    assert any("clipping per example is refused" in note for note in found.notes)
    assert any("random weights" in note for note in found.notes)
    json.dumps(facts(found), allow_nan=False)


def test_example_unit_of_a_contrastive_loss_is_refused_in_the_words_of_training(clip: str) -> None:
    found = diagnose(Asked(model=clip, unit="example"), LOOK)
    assert not found.trainable
    assert "Use the unit Group or Pair" in str(found.refusal)


def test_heads_alone_train_fewer(clip: str) -> None:
    found = diagnose(Asked(model=clip, train="heads"), LOOK)
    assert found.seen is not None
    assert {use.name for use in found.seen.uses} == {"visual_projection.weight", "text_projection.weight"}


@pytest.mark.parametrize("name", ["BlipForQuestionAnswering", "BlipForConditionalGeneration"])
def test_blip_trains_per_example_and_its_tied_weights_are_told(name: str, tmp_path: Path) -> None:
    found = diagnose(Asked(model=blip(tmp_path, name)), LOOK)
    assert (found.refusal, found.unit) == (None, "example")
    assert found.seen is not None
    tied = {use.name: use for use in found.seen.uses if use.count > 1}
    assert tied["text_decoder.bert.embeddings.word_embeddings.weight"].functions == ("embedding", "linear")
    assert any("text_decoder.cls.predictions.decoder.weight" in names for names in found.seen.tied)


def test_loss_of_blip_is_the_models_own_in_the_mean(tmp_path: Path) -> None:
    case = open_case(Asked(model=blip(tmp_path, "BlipForConditionalGeneration")))
    case.model.eval()
    batch = case.batch(3)
    mine = case.loss_fn(case.model, batch).mean()  # pyright: ignore[reportCallIssue]
    logits = case.model(**{k: v for k, v in batch.items() if k != "labels"}).logits
    expected = nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten())
    torch.testing.assert_close(mine, expected)


def test_llava_configuration_trains_and_its_pictures_take_their_places(tmp_path: Path) -> None:
    asked = Asked(model=llava(tmp_path))
    found = diagnose(asked, LOOK)
    assert (found.refusal, found.unit) == (None, "example")
    batch = open_case(asked).batch(2)
    assert (batch["input_ids"] == 55).sum(1).tolist() == [4, 4]
    assert bool((batch["labels"][batch["input_ids"] == 55] == -100).all())


def test_what_is_too_large_for_the_memory_is_refused_before_it_is_loaded(tmp_path: Path) -> None:
    big = folder(transformers.LlavaConfig(), "LlavaForConditionalGeneration", tmp_path / "big")
    found = diagnose(Asked(model=big), Wish(measure=False, memory_gb=4))
    assert "7,062,902,784 parameters, 28.3 GB" in str(found.refusal)


def test_quantised_weights_and_configurations_that_only_a_processor_feeds_are_refused_by_name(tmp_path: Path) -> None:
    packed = transformers.Qwen2VLConfig(
        text_config={**TEXT, "num_key_value_heads": 2, "vocab_size": 60},
        vision_config={"depth": 1, "embed_dim": 16, "hidden_size": 16, "num_heads": 2},
    )
    where = folder(packed, "Qwen2VLForConditionalGeneration", tmp_path / "packed")
    assert "its processor decides" in str(diagnose(Asked(model=where), LOOK).refusal)
    plain = Path(blip(tmp_path, "BlipForConditionalGeneration"))
    content = json.loads((plain / "config.json").read_text())
    content["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_8bit": True}
    (plain / "config.json").write_text(json.dumps(content))
    assert "quantised (bitsandbytes)" in str(diagnose(Asked(model=str(plain)), LOOK).refusal)


def test_batch_norm_of_timm_is_refused_with_what_works() -> None:
    asked = Asked(model="timm:resnet10t", image_size=32)
    found = diagnose(asked, LOOK)
    assert "BatchNorm in training mode" in str(found.refusal)
    (reason,) = found.findings
    assert "bn1" in reason.named
    assert "--batch-norm group" in reason.instead
    assert found.repaired is True
    assert diagnose(Asked(model="timm:resnet10t", image_size=32, batch_norm="group"), LOOK).trainable
    assert group_norm_twin("timm resnet50, 1000 classes") == "resnet50_gn"


@pytest.mark.parametrize(("model", "says"), [("nowhere", "is no folder"), ("timm:nothing_at_all", "timm has no model")])
def test_wrong_names_are_one_sentence(model: str, says: str) -> None:
    assert says in str(diagnose(Asked(model=model), LOOK).refusal)


def test_built_in_towers_and_encoders_open() -> None:
    for asked in (
        Asked(model="micro", kind="towers", image_size=16),
        Asked(model="small-conv", image_size=16, channels=1),
        Asked(model="pico", image_size=16, channels=1),
    ):
        assert diagnose(asked, LOOK).refusal is None


# ---------------------------------------------------------------- reasons


class Net(nn.Module):
    """Pixels to numbers, with a part that a test puts in."""

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.first, self.part, self.last = nn.Linear(12, 8), part, nn.Linear(8, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.part(self.first(x.flatten(1)))).squeeze(1)


def case_of(part: nn.Module, loss=lambda model, batch: model(batch["pixel_values"]).square()) -> Case:
    def batch(num_rows: int) -> dict[str, Tensor]:
        return {"pixel_values": torch.randn(num_rows, 3, 2, 2, generator=torch.Generator().manual_seed(0))}

    training = open_case(Asked(model="pico", image_size=16, channels=1)).training
    return Case(
        source="a net", model=Net(part), loss_fn=loss, batch=batch, training=training, unit="example",
        image_size=2, channels=3,
    )  # fmt: skip


class Mix(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x - x.mean(0, keepdim=True)


class Odd(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(8, 8))

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("nd,de->ne", x, self.weight)


class Queue(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("queue", torch.zeros(8))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.queue.copy_(x.detach()[0])
        return x


def reasons(case: Case):
    seen = inspect(case.model, case.loss_fn, case.batch(4))  # pyright: ignore[reportArgumentType]
    return findings(case, seen), works_with(case, seen)


def test_reasons_name_the_module_and_the_repair_is_tried() -> None:
    (mixed,), refusal = reasons(case_of(Mix()))
    assert mixed.where == ("part",)
    assert "Mix" in mixed.why
    assert refusal is not None
    (odd,), refusal = reasons(case_of(Odd()))
    assert (odd.where, refusal) == (("part.weight",), None)
    assert "einsum" in odd.why
    (queue,), refusal = reasons(case_of(Queue()))
    assert (queue.where, refusal) == (("part.queue",), None)
    (norm,), refusal = reasons(case_of(nn.BatchNorm1d(8)))
    assert (norm.where, refusal) == (("part",), None)
    _, refusal = reasons(case_of(nn.Sequential(nn.BatchNorm1d(8), Mix())))
    assert "rows depend on each other" in str(refusal)  # a frozen BatchNorm alone does not help here


def test_loss_that_couples_rows_is_told_apart_from_a_module() -> None:
    def coupled(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        rows = model(batch["pixel_values"]).square()
        return rows - rows.mean()

    (reason,), refusal = reasons(case_of(nn.Identity(), coupled))
    assert reason.where == ("the loss",)
    assert refusal is not None


def test_forward_pass_that_fails_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        raise RuntimeError("shapes\ndo not fit")

    monkeypatch.setattr(doctor, "open_case", lambda asked, room_bytes: case_of(nn.Identity(), broken))
    assert diagnose(Asked(model="x"), LOOK).refusal == (
        "its forward pass on made-up rows fails: RuntimeError: shapes do not fit"
    )


# ---------------------------------------------------------------- cost


def test_line_and_largest_micro_batch() -> None:
    line = Line.through([4, 8], [10.0, 14.0])
    assert (line.start, line.slope) == pytest.approx((6.0, 1.0))
    assert line.at(32) == pytest.approx(38.0)
    assert Line.through([4, 8], [3.0, 1.0]).slope == 0.0
    cost = Cost(
        sizes=(4, 8),
        seconds=line,
        seconds_per_step=2.0,
        processor_seconds=line,
        bytes=Line(start=100, slope=10),
        held_bytes=50,
    )
    assert cost.largest(1000 / 0.9) == 85
    assert cost.bytes.at(85) + 50 <= 1000 < cost.bytes.at(86) + 50
    assert cost.largest(100) == 0
    assert cost.step_seconds(4, 16) == pytest.approx(4 * 10 + 2)


def test_sizes_are_below_and_hold_two_groups() -> None:
    assert sizes_below(32, "example", 16) == (8, 16)
    assert sizes_below(4, "example", 16) == (1, 2)
    assert sizes_below(64, "group", 8) == (16, 32)
    assert sizes_below(32, "group", 16) == (32, 48)
    for rows in (1, 2, 3, 8, 100):
        assert len(sizes_below(rows, "example", 16)) == 2


def test_one_measures_both_sides_of_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor_measure, "TIMED", 1)
    asked = Asked(model="pico", image_size=16, channels=1)
    for private in (True, False):
        found = one(asked, private=private, rows=4)
        assert found["seconds_per_micro_batch"] > 0
        assert found["peak_bytes"] >= 0
        assert found["held_bytes"] > 0


def test_private_side_leaves_noise_in_the_gradient_and_claims_nothing(tmp_path: Path) -> None:
    asked = Asked(model="pico", image_size=16, channels=1)
    case = open_case(asked)
    optimizer = torch.optim.SGD([p for p in case.model.parameters() if p.requires_grad], lr=1.0)
    before = {name: p.detach().clone() for name, p in norms.trainable(case.model).items()}
    _private(case, optimizer, 4, asked, tmp_path)([micro_batch(case, 4, 4)])
    assert all(not torch.equal(p, before[name]) for name, p in norms.trainable(case.model).items())


@pytest.mark.slow
def test_fresh_processes_measure_both_sides() -> None:
    found = diagnose(Asked(model="pico", image_size=16, channels=1), Wish(micro_batch_size=4, memory_gb=8, check=True))
    assert found.trouble == ()
    assert set(found.checked) == {"private", "non-private"}
    assert all(ratio.bytes > 0 and ratio.seconds > 0 for ratio in found.checked.values())
    assert set(found.cost) == {"private", "non-private"}
    for cost in found.cost.values():
        weights = found.seen.num_trainable * 4  # pyright: ignore[reportOptionalMemberAccess]
        assert cost.bytes.at(4) > 3 * weights
    assert found.largest is None or found.largest > 4


def test_check_compares_the_estimate_with_a_step_of_the_asked_size(monkeypatch: pytest.MonkeyPatch) -> None:
    asked_for = []

    def measure(jobs, threads):
        asked_for.extend((job["private"], job["rows"]) for job in jobs)
        row = {"seconds_per_step": 1.0, "held_bytes": 7.0}
        return [
            {**row, "seconds_per_micro_batch": n, "processor_seconds": 2.0 * n, "peak_bytes": 10.0 * n}
            for n in (job["rows"] + (job["rows"] == 32) for job in jobs)
        ]

    monkeypatch.setattr(doctor_cost, "measure", measure)
    costs, checked = doctor_cost.estimate(Asked(model="pico"), 32, "example", check=True)
    assert asked_for == [(side, rows) for side in (True, False) for rows in (8, 16, 32)]
    assert costs["private"].bytes.at(32) == pytest.approx(320)
    assert checked["private"].seconds == pytest.approx(33 / 34)
    assert checked["non-private"].bytes == pytest.approx(32 / 33)
    assert checked["private"].processor_seconds == pytest.approx(32 / 33)


def test_measurement_that_fails_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor_cost, "measure", lambda jobs, threads: [{"error": "out of memory"}] * len(jobs))
    found = diagnose(Asked(model="pico", image_size=16, channels=1), Wish(micro_batch_size=4))
    assert found.trouble == ("time and memory could not be measured: out of memory",)
    assert found.trainable


# ---------------------------------------------------------------- signal


def plan(noise: float, steps: int = 100) -> Plan:
    return Plan(
        unit=Example(clip_norm=1.0),
        sampler=Poisson(num_records=10_000, expected_batch_size=100),
        steps=steps,
        noise_multiplier=noise,
    )


def test_mean_clipped_gradient_is_that_of_all_pairs_of_rows() -> None:
    """(|S|^2 - sum |v|^2) / (n (n - 1)) is the mean of <v_i, v_j> over i != j, here row by row."""
    case = case_of(nn.Identity())
    batches = made_up(case, 12, 4, 4)
    found = first_gradient(case, batches, 0.5, "made-up")
    rows = []
    for batch in batches:
        for index in range(4):
            row = {"pixel_values": batch.batch["pixel_values"][index : index + 1]}
            grads = torch.autograd.grad(case.loss_fn(case.model, row).sum(), list(case.model.parameters()))  # pyright: ignore[reportCallIssue]
            flat = torch.cat([grad.flatten() for grad in grads]).double()
            rows.append(flat * min(1.0, 0.5 * (1 - 1e-3) / float(flat.norm())))
    gram = torch.stack(rows) @ torch.stack(rows).T
    expected = (gram.sum() - gram.trace()) / (12 * 11)
    assert found.mean_norm == pytest.approx(math.sqrt(max(float(expected), 0.0)), rel=1e-4)
    assert found.num_units == 12


def test_signal_sets_the_gradient_beside_the_noise_of_the_plan() -> None:
    gradient = Gradient(num_units=8, mean_norm=0.5, clipped=1.0, clip_norm=1.0, inputs="shapes")
    found = signal_of(gradient, plan(2.0), 400)
    assert found.noise_norm == pytest.approx(2.0 * 1.0 / 100 * 20)
    assert found.ratio == pytest.approx(1.25)
    assert found.over_all == pytest.approx(12.5)
    assert found.largest == pytest.approx(2.5)
    assert (found.verdict, advice(found, 400, ())) == ("fine", [])


@pytest.mark.parametrize(
    ("inputs", "mean", "largest", "verdict"),
    [
        ("shapes", 0.05, 1.0, "hopeless"),
        ("shapes", 0.2, 1.0, "doubtful"),
        ("made-up", 0.05, 1.0, "unclear"),
        ("made-up", 0.05, 0.05, "hopeless"),
        ("made-up", 0.05, 0.2, "doubtful"),
        ("made-up", 0.5, 1.0, "fine"),
    ],
)
def test_made_up_rows_alone_prove_nothing_hopeless(inputs: str, mean: float, largest: float, verdict: str) -> None:
    gradient = Gradient(num_units=8, mean_norm=mean, clipped=1.0, clip_norm=1.0, inputs=inputs)
    found = Signal(gradient=gradient, noise_norm=1.0, steps=100, largest=largest)
    assert found.verdict == verdict


def test_public_pictures_are_read_and_private_ones_are_not_opened(tmp_path: Path) -> None:
    asked = Asked(model="pico", image_size=16, channels=1)
    privacy = Privacy(epsilon=None, noise_multiplier=1.0, expected_batch_size=64, steps=10)
    known = Wish(measure=False, records=1000, privacy=privacy, data=Data(spec="shapes:40"))
    found = diagnose(asked, known)
    assert found.signal is not None
    assert found.signal.gradient.inputs != "made-up"
    secret = Wish(measure=False, records=1000, privacy=privacy, data=Data(spec=str(tmp_path / "private")))
    with pytest.raises(BadInput, match="reads no private rows"):
        diagnose(asked, secret)


def test_group_signal_counts_groups(clip: str) -> None:
    privacy = Privacy(epsilon=None, noise_multiplier=1.0, expected_batch_size=64, steps=10)
    found = diagnose(Asked(model=clip, group_size=4), Wish(measure=False, records=1000, privacy=privacy))
    assert found.signal is not None
    assert found.plan is not None
    assert found.signal.gradient.num_units == 8
    assert (found.plan.presence, found.plan.divisor) == (2.0, 16.0)


def test_quantised_and_packed_raise_by_type(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="GB in float32"):
        open_case(Asked(model=llava(tmp_path)), room_bytes=100.0)
    assert losses.caption_loss is open_case(Asked(model="pico", image_size=16)).loss_fn
