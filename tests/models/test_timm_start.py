"""timm models as encoders: BatchNorm frozen or replaced, weights from a file, what is refused."""

import copy
import sys

import pytest
import timm
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from tests.models.pairs import jitter, small_timm
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from sfumato.base import BadInput
from sfumato.models import StartedTowers, start_encoder
from sfumato.models import timm_start as timm_start_module
from sfumato.models.modeling_sfumato_timm import batch_norms, hold_batch_norms, replace_batch_norms


def begin(kind: str, **changes) -> StartedTowers:
    return start_encoder(**{"kind": kind, "image_size": 32, "seed": 1, **changes})


@pytest.fixture(scope="module")
def weights_file(tmp_path_factory):
    """A checkpoint as timm publishes them: with a classifier of other width, statistics off zero and one."""
    torch.manual_seed(6)
    model = jitter(timm.create_model("test_resnet", num_classes=11))
    file = tmp_path_factory.mktemp("timm") / "weights.safetensors"
    save_file(model.state_dict(), file)
    return file, model.eval()


def test_frozen_batch_norm_keeps_the_file_and_survives_train(weights_file) -> None:
    file, source = weights_file
    started = begin(f"timm:test_resnet:{file}", batch_norm="frozen", width=6)
    pixels = torch.randn(3, 3, 32, 32)
    wanted = source.forward_head(source.forward_features(pixels), pre_logits=True)
    model = started.model.train()
    torch.testing.assert_close(model.features(pixels), wanted)
    assert {norm.training for norm in batch_norms(model)} == {False}
    norms = {f"{name}." for name, module in model.named_modules() if isinstance(module, _BatchNorm)}
    held = {name for name, _ in model.named_parameters() if name.rpartition(".")[0] + "." in norms}
    assert held == set(started.training.frozen)
    before = copy.deepcopy(model.state_dict())
    model.train()(pixels)
    nn.ModuleList([model]).train()
    assert {norm.training for norm in batch_norms(model)} == {False}
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    config = timm.get_pretrained_cfg("test_resnet")
    assert started.preprocess["mean"] == list(config.mean)
    assert "BatchNorm frozen" in started.notes[0]


def test_group_norm_takes_the_place_with_activation_and_weights() -> None:
    model = timm.create_model("test_byobnet", num_classes=4)  # BatchNorm and activation in one layer
    old = {name: module for name, module in model.named_modules() if isinstance(module, _BatchNorm)}
    jitter(model)
    replace_batch_norms(model)
    for name, norm in old.items():
        new = model.get_submodule(name)
        assert isinstance(new, nn.GroupNorm)
        assert torch.equal(new.weight, norm.weight)
        assert torch.equal(new.bias, norm.bias)
        x = torch.randn(2, norm.num_features, 5, 5)
        wanted = F.group_norm(x, new.num_groups, norm.weight, norm.bias, norm.eps)
        torch.testing.assert_close(new(x), norm.act(wanted) if hasattr(norm, "act") else wanted)
        assert norm.num_features % new.num_groups == 0
        assert new.num_groups > 1
    rows = torch.randn(3, 3, 32, 32)
    torch.testing.assert_close(model.train()(rows)[1:], model.train()(rows[1:]), rtol=1e-4, atol=1e-5)


class Centred(nn.Module):
    """Pictures minus the mean picture of the batch, or minus a mean that is learned as the batches pass."""

    def __init__(self, learns: bool) -> None:
        super().__init__()
        self.learns = learns
        self.register_buffer("mean", torch.zeros(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.learns:
            return x - x.mean(0)
        self.mean += x.mean().detach()
        return x


@pytest.mark.parametrize(
    ("learns", "message"), [(False, "depend on each other, so"), (True, r"its buffer backbone\.maxpool\.mean learns")]
)
def test_a_model_whose_rows_meet_is_refused(learns: bool, message: str, monkeypatch) -> None:
    def spoil(model: nn.Module) -> None:
        replace_batch_norms(model)
        model.maxpool = Centred(learns)

    monkeypatch.setattr(timm_start_module, "replace_batch_norms", spoil)
    with pytest.raises(BadInput, match=message):
        begin("timm:test_resnet")


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        ("timm:test_resnett", {}, r"timm has no model 'test_resnett'; it has"),
        ("timm:hf-hub:timm/resnet18", {}, r"timm has no model 'hf-hub'"),
        ("timm:test_vit", {"image_size": 33}, r"does not take pictures of 33 pixels|cannot make test_vit"),
        ("timm:test_resnet", {"batch_norm": "frozen"}, r"no statistics to keep"),
        ("timm:deit_tiny_distilled_patch16_224", {}, r"no single linear layer"),
        ("timm:test_resnet:nowhere.pth", {}, r"there is no weights file nowhere\.pth"),
    ],
)
def test_settings_that_do_not_fit_are_named(kind: str, changes: dict, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        begin(kind, **changes)


def test_weights_that_do_not_fit_are_named(weights_file, tmp_path) -> None:
    file, model = weights_file
    with pytest.raises(BadInput, match="mean nothing under GroupNorm"):
        begin(f"timm:test_resnet:{file}")
    with pytest.raises(BadInput, match=r"conv1.* has shape"):
        begin(f"timm:test_resnet:{file}", batch_norm="frozen", channels=1)
    state = {name: value for name, value in model.state_dict().items() if name != "layer1.0.conv1.weight"}
    save_file(state, tmp_path / "lacking.safetensors")
    with pytest.raises(BadInput, match=r"lacks the tensor layer1\.0\.conv1\.weight"):
        begin(f"timm:test_resnet:{tmp_path / 'lacking.safetensors'}", batch_norm="frozen")
    (tmp_path / "broken.safetensors").write_bytes(b"nothing")
    with pytest.raises(BadInput, match="cannot be read"):
        begin(f"timm:test_resnet:{tmp_path / 'broken.safetensors'}", batch_norm="frozen")


def test_timm_that_is_not_installed_is_named(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(BadInput, match=r"pip install \"sfumato\[timm\]\""):
        begin("timm:test_resnet")
    assert begin("small-conv").model is not None


def test_holding_is_needed() -> None:
    """What `hold_batch_norms` is for: without it a mode switch would let statistics learn."""
    model = small_timm("test_resnet", "frozen")
    model.backbone.train()
    assert {norm.training for norm in batch_norms(model)} == {True}
    hold_batch_norms(model)
    assert {norm.training for norm in batch_norms(model)} == {False}
