"""Norms and clipped sums of every family under every choice of what trains equal the oracle; the rest is refused."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.models.vlms import ANSWERS, FOLDERS, QUESTIONS, batch_of, pictures, started

from sfumato import norms
from sfumato.base import BadInput
from sfumato.losses import AnswerLoss
from sfumato.models import Adapter, StartedVlm

CHOICES = ("heads", "last-1", "bias", "lora", "dora")
ADAPTED = ("lora", "dora")
CASES = [
    *((kind, train, "right" if kind == "coca" else "left") for kind in FOLDERS for train in CHOICES),
    *((kind, "lora", "right") for kind in FOLDERS if kind != "coca"),
]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every kind's checkpoint, each written when it is first asked for."""
    return tmp_path_factory.mktemp("kinds")


def adapter_for(kind: str, **more: Any) -> Adapter:
    """Settings that the kind takes: torch's attention, which CoCa has, carries no LoRA."""
    return Adapter(rank=2, targets="all-linear" if kind == "coca" else (), **more)


def made_of(folders: Path, kind: str, train: str, **settings: Any) -> StartedVlm:
    if train in ADAPTED:
        settings.setdefault("adapter", adapter_for(kind))
    (folders / kind).mkdir(exist_ok=True)
    made = started(kind, folders / kind, train=train, **settings)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():  # LoRA starts at a product with zero, behind which half of the gradients are zero
        for name in made.training.trainable:
            param = made.model.get_parameter(name)
            param.add_(0.05 * torch.randn(param.shape, generator=generator).to(param))
    return made


@pytest.mark.every(12)
@pytest.mark.parametrize(("kind", "train", "side"), CASES)
def test_norms_and_clipped_sums_equal_the_oracle(
    folders: Path, kind: str, train: str, side: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kind == "paligemma":  # Gemma's norm casts its weight to float32, which no book-keeping can be exact through
        monkeypatch.setattr(torch.Tensor, "float", lambda tensor: tensor.to(torch.float64))
    made = made_of(folders, kind, train, padding_side=side)
    loss, batch = AnswerLoss(made.family.logits), batch_of(made)
    measured = norms.prepare(made.model, loss, batch)
    assert set(measured.names) == set(made.training.trainable)
    frozen = {name for name, param in made.model.named_parameters() if not param.requires_grad}
    assert frozen == {*made.training.frozen, *made.training.unreached}
    assert frozen
    if train in ADAPTED:
        _check_adapter(made)
    bound = norms.clipped_sum(made.model, loss, batch, measured, torch.ones_like).norms.median() * 0.9

    def factor(norm: torch.Tensor) -> torch.Tensor:
        return (bound / norm).clamp(max=1)

    fast, slow = (engine(made.model, loss, batch, measured, factor) for engine in (norms.clipped_sum, norms.oracle_sum))
    assert (slow.norms > 0).all()
    assert (slow.factors < 1).any()
    assert ((fast.norms - slow.norms).abs() / slow.norms).max() < 1e-10
    assert fast.grads.keys() == slow.grads.keys() == set(measured.names)
    whole = torch.cat([grad.flatten() for grad in slow.grads.values()]).norm()
    apart = torch.cat([(fast.grads[name] - slow.grads[name]).flatten() for name in slow.grads]).norm()
    assert apart < 1e-10 * whole


def _check_adapter(made: StartedVlm) -> None:
    """Nothing but the adapter trains, and a gradient reaches every part of it."""
    assert all(".lora_" in name for name in made.training.trainable)
    layers = {name.partition(".lora_")[0] for name in made.training.trainable}
    parts = 3 if any("magnitude" in name for name in made.training.trainable) else 2
    assert len(made.training.trainable) == parts * len(layers)
    assert not [name for name in made.training.unreached if ".lora_" in name]


@pytest.mark.parametrize(
    ("train", "adapter", "named"),
    [
        ("last-9", None, "last-9: the longest tower of a LlavaForConditionalGeneration has only 2 blocks"),
        ("bias", Adapter(rank=2), "train=bias uses no adapter"),
        ("lora", Adapter(targets=("nothing",)), "no linear layer is named nothing in a LlavaFor"),
        ("lora", Adapter(targets=("embed_tokens",)), "embed_tokens is a Embedding"),
        (
            "lora",
            Adapter(modules_to_save=("nowhere",)),
            "no module of a LlavaFor.* is named nowhere",
        ),
        ("lora", Adapter(targets=("layers.1.mlp.fc2",)), "no gradient reaches .*vision_tower.*layers.1.mlp.fc2"),
    ],
)
def test_a_choice_that_cannot_be_names_the_module(folders: Path, train: str, adapter: Any, named: str) -> None:
    with pytest.raises(BadInput, match=named):
        made_of(folders, "llava", train, adapter=adapter)


def test_every_linear_layer_and_a_head_that_trains_whole(folders: Path) -> None:
    made = made_of(
        folders, "llava", "lora", adapter=Adapter(rank=2, targets="all-linear", modules_to_save=("lm_head",))
    )
    loss, batch = AnswerLoss(made.family.logits), batch_of(made)
    measured = norms.prepare(made.model, loss, batch)
    assert "lm_head.modules_to_save.default.weight" in measured.names
    assert any("mlp.gate_proj.lora_A" in name for name in measured.names)
    fast, slow = (
        engine(made.model, loss, batch, measured, torch.ones_like) for engine in (norms.clipped_sum, norms.oracle_sum)
    )
    torch.testing.assert_close(fast.norms, slow.norms, rtol=1e-10, atol=0)


def test_coca_carries_lora_where_it_is_asked_for(folders: Path) -> None:
    """`cross_attn`, in whose path its MLPs stand, is the name of a tower."""
    with pytest.raises(BadInput, match=r"no projection of attention.*CoCa.*targets='all-linear' takes all"):
        made_of(folders, "coca", "lora", adapter=Adapter(rank=2))


@pytest.mark.every(3)
@pytest.mark.parametrize(("kind", "dtype"), [(kind, dtype) for kind in FOLDERS for dtype in ("bfloat16", "float16")])
def test_frozen_half_precision_takes_the_loaders_rows(folders: Path, kind: str, dtype: str) -> None:
    """Rows come in float32, whatever the weights are; close to the same in float32 throughout."""
    made, whole = (
        made_of(folders, kind, "lora", dtype="float32", adapter=adapter_for(kind, frozen_dtype=frozen))
        for frozen in (dtype, None)
    )
    rows = [made.family.encode(*row) for row in zip(pictures(), QUESTIONS, ANSWERS, strict=True)]
    batch = {name: torch.stack([row[name] for row in rows]) for name in rows[0]}
    assert batch["pixel_values"].dtype == torch.float32
    half, full = (AnswerLoss(one.family.logits)(one.model, batch) for one in (made, whole))
    torch.testing.assert_close(half.float(), full, rtol=0.05, atol=0.05)
    half.sum().backward()
    assert all(made.model.get_parameter(name).grad is not None for name in made.training.trainable)
