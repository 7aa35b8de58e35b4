"""The doctor: what it says of each kind of model, on made-up rows."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tests.once import only_whole
from torch import Tensor, nn

from sfumato import losses, norms
from sfumato.base import BadInput, Refused
from sfumato.norms.inspect import inspect
from sfumato.recipes import doctor, doctor_cost, doctor_measure
from sfumato.recipes.doctor import Wish, diagnose, facts, rules
from sfumato.recipes.doctor_case import Asked, Case
from sfumato.recipes.doctor_cost import Cost, Line, sizes_below
from sfumato.recipes.doctor_findings import findings, group_norm_twin, works_with
from sfumato.recipes.doctor_measure import _private, micro_batch, one
from sfumato.recipes.doctor_models import open_case
from sfumato.recipes.run import Data

LOOK = Wish(measure=False)
TEXT: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
IDS = {"bos_token_id": 2, "pad_token_id": 0, "eos_token_id": 3}
IMAGE: dict[str, Any] = {**TEXT, "image_size": 16, "patch_size": 8}


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
    assert reason.tried == "held in evaluation mode"
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
    queue: Tensor

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
    assert sizes_below(16, "group", 16) == sizes_below(1, "group", 16) == (32, 48)  # never less than two groups
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
@only_whole
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


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    "wrong",
    [{"image_size": 0}, {"max_tokens": -2}, {"channels": 0}, {"group_size": 0}, {"max_answer": 0}],
)
def test_numbers_below_one_are_refused_by_name(wrong: dict[str, int]) -> None:
    (name,) = wrong
    with pytest.raises(BadInput, match=f"--{name.replace('_', '-')} must be >= 1"):
        Asked(model="pico", **wrong)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    "wrong", [{"memory_gb": math.inf}, {"records": 0}, {"data": Data(spec="shapes")}, {"check": True, "measure": False}]
)
def test_wishes_that_mean_nothing_are_refused(wrong: dict) -> None:
    with pytest.raises(BadInput):
        Wish(**wrong)


def test_settings_that_do_not_fit_are_refused(clip: str) -> None:
    for asked, says in (
        (Asked(model="timm:test_vit", kind="towers"), "none of timm's"),
        (Asked(model="timm:test_vit", batch_norm="group"), "no BatchNorm"),
        (Asked(model="timm:test_vit", kind="encoder", batch_norm="group"), "no BatchNorm"),
        (Asked(model="timm:resnet10t", kind="encoder", image_size=32, batch_norm="keep"), "group (usual) or frozen"),
        (Asked(model="small-conv", image_size=16, batch_norm="group"), "leave it out"),
        (Asked(model="pico", image_size=16, group_size=3), "--unit group"),
        (Asked(model=clip, max_tokens=20), "at most 8 tokens"),
    ):
        assert says in str(diagnose(asked, LOOK).refusal), asked


def test_siglip_takes_its_own_length_only(tmp_path: Path) -> None:
    config = transformers.SiglipConfig(
        text_config={**TEXT, "vocab_size": 50, "max_position_embeddings": 12}, vision_config=IMAGE
    )
    where = folder(config, "SiglipModel", tmp_path / "siglip")
    assert open_case(Asked(model=where, max_tokens=12)).batch(1)["input_ids"].shape == (1, 12)
    assert "leave out --max-tokens" in str(diagnose(Asked(model=where, max_tokens=500), LOOK).refusal)


@only_whole
def test_open_clip_is_not_told_to_use_a_setting_of_timm() -> None:
    found = diagnose(Asked(model="open_clip:RN50", image_size=64, train="heads"), LOOK)
    (reason,) = found.findings
    assert "--batch-norm" not in reason.instead
    assert "open_clip:RN50:FILE" in reason.instead


def broken(where: str, **changed) -> None:
    file = Path(where) / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changed))


@pytest.mark.parametrize("kind", ["heads", "no encoder", "bin", "safetensors", "size", "pixels"])
def test_folders_that_cannot_be_opened_are_one_sentence(kind: str, clip: str) -> None:
    size = None
    if kind == "heads":
        broken(clip, text_config={**TEXT, "hidden_size": 15})
    elif kind == "no encoder":
        Path(clip, "config.json").write_text('{"model_type": "vision-encoder-decoder"}')
    elif kind == "bin":
        Path(clip, "pytorch_model.bin").write_bytes(b"garbage")
    elif kind == "safetensors":
        Path(clip, "model.safetensors").write_bytes(b"")
    elif kind == "size":
        broken(clip, vision_config={**IMAGE, "image_size": 0})
    else:
        size = 20
    found = diagnose(Asked(model=clip, image_size=size), LOOK)
    assert found.refusal


def test_error_without_a_message_is_named_by_its_type(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_, **__):
        raise AssertionError

    monkeypatch.setattr(doctor, "open_case", fails)
    assert diagnose(Asked(model="x"), LOOK).refusal == "it cannot be opened: AssertionError"


def test_quantised_and_packed_raise_by_type(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="GB in float32"):
        open_case(Asked(model=llava(tmp_path)), room_bytes=100.0)
    assert losses.caption_loss is open_case(Asked(model="pico", image_size=16)).loss_fn
