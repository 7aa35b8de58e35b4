"""The encoders themselves, where they start, and what is said when a setting does not fit."""

import pytest
import torch
import torch.nn.functional as F
from tests.models.pairs import PREPROCESS, jitter, small_encoder
from torch import nn

from sfumato.base import BadInput
from sfumato.models import ResNet18Plain, SmallConv, StartedTowers, export_encoder, start_encoder
from sfumato.models.encoder_train import blocks_of
from sfumato.models.modeling_sfumato_encoders import Block
from sfumato.models.modeling_sfumato_timm import batch_norms
from sfumato.plan import InfoNCE

KINDS = ("small-conv", "resnet18", "micro", "timm:test_resnet", "timm:test_vit")


def begin(kind: str = "small-conv", **changes) -> StartedTowers:
    return start_encoder(**{"kind": kind, "image_size": 32, "seed": 1, **changes})


def count(model: nn.Module) -> int:
    return sum(param.numel() for param in model.parameters())


# ---------------------------------------------------------------- the architectures


def test_small_conv_is_the_papers() -> None:
    model = SmallConv(channels=3, width=8)
    assert count(model) == (27 + 1) * 8 + (72 + 1) * 16 + (144 + 1) * 32 + 33 * 8 == 6296
    x = torch.randn(2, 3, 32, 32)
    first, second, third = model.stages
    maps = F.conv2d(x, first.weight, first.bias, stride=2, padding=1).relu()
    maps = F.conv2d(maps, second.weight, second.bias, stride=2, padding=1).relu()
    maps = F.conv2d(maps, third.weight, third.bias, stride=2, padding=1).relu()
    assert maps.shape == (2, 32, 4, 4)
    torch.testing.assert_close(model(x), maps.flatten(2).mean(2) @ model.head.weight.T + model.head.bias)


def test_resnet18_is_torchvisions_for_small_pictures_without_batch_norm() -> None:
    """Same weights of all 20 convolutions, BatchNorm taken for the identity: same maps."""
    from torchvision.models import resnet18

    other = resnet18(num_classes=8)
    other.conv1, other.maxpool = nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.Identity()
    for parent in list(other.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.BatchNorm2d):
                setattr(parent, name, nn.Identity())
    model = ResNet18Plain(3, 8)
    mine = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    theirs = [module for module in other.modules() if isinstance(module, nn.Conv2d)]
    assert len(mine) == len(theirs) == 20
    with torch.no_grad():
        for ours, his in zip(mine, theirs, strict=True):
            his.weight.copy_(ours.weight)
            ours.bias.zero_()
        other.fc.weight.copy_(model.head.weight)
        other.fc.bias.copy_(model.head.bias)
        x = torch.randn(2, 3, 16, 16)
        torch.testing.assert_close(model(x), other(x), rtol=1e-4, atol=1e-5)


def test_no_encoder_has_a_batch_norm_that_learns() -> None:
    for kind in KINDS:
        assert not batch_norms(begin(kind).model), kind
    assert sum(isinstance(module, nn.GroupNorm) for module in begin("resnet18").model.modules()) == 0
    groups = [m for m in begin("resnet18-group").model.modules() if isinstance(m, nn.GroupNorm)]
    assert len(groups) == 20
    assert {group.num_groups for group in groups} == {32}


def test_resnet18_starts_as_its_shortcuts_and_keeps_its_scale() -> None:
    """Every branch ends in zero; features neither vanish nor explode over 8 blocks."""
    for kind in ("resnet18", "resnet18-group"):
        model = begin(kind).model
        x = torch.randn(4, 64, 8, 8).relu()
        block = next(module for module in model.modules() if isinstance(module, Block))
        assert torch.equal(block(x), x)
        found = model.features(torch.randn(4, 3, 32, 32))
        assert 0.1 < found.square().mean().sqrt() < 10, kind
    depths = [m.first.weight.detach().std() * m.first.weight[0].numel() ** 0.5 for m in begin("resnet18").model.stages]
    assert all(float(depth) == pytest.approx((2 / 8) ** 0.5, rel=0.05) for depth in depths)


@pytest.mark.parametrize("kind", ["small-conv", "resnet18", "micro"])
def test_encoders_learn_to_tell_pictures_apart(kind: str) -> None:
    torch.manual_seed(0)
    model = small_encoder(kind) if kind.startswith("resnet") else begin(kind, image_size=8, channels=1).model
    embed, pictures = begin(kind, image_size=8).embed, torch.randn(16, 1, 8, 8)
    batch = {"pixel_values": pictures, "other_view": pictures + 0.1 * torch.randn_like(pictures)}
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    values = []
    for _ in range(40):
        u, v = embed(model, batch)
        value = F.cross_entropy(u @ v.T / InfoNCE(temperature=0.2).temperature, torch.arange(16))
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        values.append(float(value.detach()))
    assert values[-1] < 0.6 * values[0]


# ---------------------------------------------------------------- seeds and what trains


@pytest.mark.parametrize("kind", KINDS)
def test_weights_are_a_function_of_the_seed(kind: str) -> None:
    torch.manual_seed(7)
    before = torch.get_rng_state()
    first = begin(kind).model.state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(8)
    again, other = begin(kind).model.state_dict(), begin(kind, seed=2).model.state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


@pytest.mark.parametrize("kind", KINDS)
def test_every_parameter_is_in_exactly_one_list(kind: str) -> None:
    for train in ("all", "last-1", "heads") if kind != "resnet18" else ("last-1",):
        started = begin(kind, train=train)
        kinds = started.training
        names = [*kinds.trainable, *kinds.frozen, *kinds.unreached, *kinds.absent]
        assert sorted(names) == sorted(name for name, _ in started.model.named_parameters())
        assert {name for name, p in started.model.named_parameters() if p.requires_grad} == set(kinds.trainable)
        assert (not kinds.frozen) == (train == "all")
        assert set(kinds.trainable[-2:]) == set(_named(started.model, started.model.head))
        assert (len(kinds.trainable) == 2) == (train == "heads")
        assert started.model.training


def _named(model: nn.Module, part: nn.Module) -> list[str]:
    wanted = {id(param) for param in part.parameters()}
    return [name for name, param in model.named_parameters() if id(param) in wanted]


@pytest.mark.parametrize(
    ("kind", "blocks", "last"),
    [
        ("small-conv", 3, {"stages.2"}),
        ("resnet18", 8, {"stages.7"}),
        ("micro", 3, {"stem.stages", "stem.layernorm"}),
        ("timm:test_vit", 7, {"backbone.blocks", "backbone.norm"}),
    ],
)
def test_last_blocks(kind: str, blocks: int, last: set[str]) -> None:
    found = blocks_of(begin(kind).model)
    assert len(found) == blocks
    assert {".".join(name.split(".")[:2]) for name in found[-1]} == last
    names = [name for block in found for name in block]
    rest = [name for name, _ in begin(kind).model.named_parameters() if name not in names]
    assert len(names) == len(set(names))
    assert rest[-2:] == sorted(rest[-2:], reverse=True)  # weight and bias of the last layer
    assert [name.split(".")[0] for name in rest[:-2]] == (["stem"] * 2 if kind == "resnet18" else [])
    with pytest.raises(BadInput, match=f"has only {blocks} blocks"):
        begin(kind, train=f"last-{blocks + 1}")


def test_preprocess_and_notes() -> None:
    started = begin(channels=1)
    assert started.preprocess == {"image_size": 32, "mean": [0.5], "std": [0.5], "channels": 1}
    assert started.notes == ("random weights of small-conv",)
    assert (started.tokenizer, started.log_scale) == (None, None)
    assert begin(width=12).model(torch.randn(2, 3, 20, 20)).shape == (2, 12)


# ---------------------------------------------------------------- a former export


@pytest.mark.parametrize("kind", ["small-conv", "micro", "timm:test_resnet"])
def test_from_a_former_export(kind: str, tmp_path) -> None:
    former = jitter(begin(kind).model)
    export_encoder(former, {**PREPROCESS, "image_size": 32}, tmp_path / "run" / "export")
    (tmp_path / "run" / "run.json").write_text("{}")
    started = begin(kind, init=tmp_path / "run", seed=5, train="heads", image_size=40)
    for name, tensor in started.model.state_dict().items():
        assert torch.equal(tensor, former.state_dict()[name]), name
    assert len(started.training.trainable) == 2
    assert started.model.training
    assert started.preprocess == {"image_size": 40, "mean": [0.4] * 3, "std": [0.3] * 3, "channels": 3}
    assert started.notes[0].startswith(kind)


def test_an_export_that_does_not_fit_is_named(tmp_path) -> None:
    folder = export_encoder(begin().model, PREPROCESS, tmp_path / "conv")
    for changes, message in (
        ({"kind": "micro"}, r"holds the encoder small-conv, the kind asked for is micro"),
        ({"channels": 1}, r"has channels 3, asked for is 1"),
        ({"width": 9}, r"has width 8, asked for is 9"),
        ({"kind": "timm:test_vit"}, r"holds the encoder small-conv"),
        ({"kind": "timm:test_vit:weights.pth"}, r"both a weights file"),
    ):
        with pytest.raises(BadInput, match=message):
            begin(**{"kind": "small-conv", "init": folder, **changes})
    folder = export_encoder(begin("timm:test_vit").model, PREPROCESS, tmp_path / "vit")
    with pytest.raises(BadInput, match="has image_size 32, asked for is 48"):
        begin("timm:test_vit", init=folder, image_size=48)
    folder = export_encoder(begin("timm:test_resnet").model, PREPROCESS, tmp_path / "resnet")
    with pytest.raises(BadInput, match="has batch_norm group, asked for is frozen"):
        begin("timm:test_resnet", init=folder, batch_norm="frozen")
    with pytest.raises(BadInput, match="no checkpoint folder"):
        begin(init=tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        ("timm:", {}, r"kind is small-conv"),
        ("timm", {}, r"kind is small-conv"),
        ("resnet50", {}, r"kind is small-conv, resnet18, resnet18-group, micro, timm:NAME"),
        ("small-conv", {"train": "some"}, r"train is all, heads or last-K"),
        ("small-conv", {"width": 0}, r"width must be >= 1"),
        ("small-conv", {"channels": 2}, r"channels must be 1 or 3"),
        ("small-conv", {"batch_norm": "eval"}, r"batch_norm is group or frozen"),
        ("micro", {"image_size": 4}, r"the least is 8"),
    ],
)
def test_settings_that_do_not_fit_are_named(kind: str, changes: dict, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        begin(kind, **changes)
