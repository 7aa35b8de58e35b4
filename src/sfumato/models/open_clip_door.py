"""The door to open_clip: its vocabulary, its architectures with local weights or none, its local folders.

Nothing here downloads. open_clip is imported inside functions: it is an extra.
"""

import copy
import gzip
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Regex, decoders, normalizers, pre_tokenizers, processors
from tokenizers import Tokenizer as Backend
from tokenizers.models import BPE
from torch import nn
from transformers import PreTrainedTokenizerFast

from sfumato.base import BadInput
from sfumato.base.reason import reason
from sfumato.models.folders import read_json

CONFIG, WEIGHTS = "open_clip_config.json", "open_clip_model.safetensors"
_START, _END = "<|startoftext|>", "<|endoftext|>"
_WORDS = r"""<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"""

_QUOTES = (("[\u2018\u2019]", "'"), ("[\u201c\u201d]", '"'))  # curly to straight


@dataclass(frozen=True, kw_only=True)
class OpenClipModel:
    """A model of open_clip with what it does not carry itself.

    Attributes:
        architecture: open_clip's configuration as it was built, with picture size and text length.
        mean, std: per channel, of values in [0, 1].
        is_random: no weights were given.
        source: what it was made from, in words.
    """

    model: nn.Module
    architecture: dict[str, Any]
    mean: list[float]
    std: list[float]
    is_random: bool
    source: str

    @property
    def text(self) -> dict[str, Any]:
        """The text tower's settings, with open_clip's defaults."""
        own = {"context_length": 77, "vocab_size": 49408, "pad_id": 0, "eos_id": 2, "pool_type": "argmax"}
        return own | self.architecture["text_cfg"]


def open_clip_module() -> Any:
    """Return open_clip; BadInput names the extra where it is not installed."""
    try:
        import open_clip
    except ImportError as error:
        raise BadInput("open_clip is not installed: pip install 'sfumato[open-clip]'.") from error
    return open_clip


def read_open_clip_bpe(pad_field: str) -> PreTrainedTokenizerFast:
    """Make the fast tokenizer of open_clip's byte-pair file; `pad_field` records its padding, 0, in what is saved.

    Id 0 is the ordinary token "!": made a special token, it would be cut out of every text that has one.
    """
    with gzip.open(open_clip_module().tokenizer.default_bpe(), "rt", encoding="utf-8") as file:
        lines = file.read().split("\n")
    pairs = (line.split() for line in lines[1 : 49152 - 256 - 2 + 1])  # the file's first line is its version
    merges = [(first, second) for first, second in pairs]
    characters = list(open_clip_module().tokenizer.bytes_to_unicode().values())
    tokens = [
        *characters,
        *(f"{one}</w>" for one in characters),
        *(first + second for first, second in merges),
        _START,
        _END,
    ]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    backend = Backend(BPE(vocabulary, merges, end_of_word_suffix="</w>", unk_token=_END))
    straight = [normalizers.Replace(Regex(curly), flat) for curly, flat in _QUOTES]
    backend.normalizer = normalizers.Sequence([normalizers.NFC(), *straight, normalizers.Lowercase()])
    words = pre_tokenizers.Split(Regex(_WORDS), behavior="removed", invert=True)
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.pre_tokenizer = pre_tokenizers.Sequence([words, to_bytes])
    backend.decoder = decoders.Sequence(
        [decoders.ByteLevel(), decoders.Replace("</w>", " "), decoders.Strip(" ", 0, 1)]
    )
    backend.post_processor = processors.TemplateProcessing(
        single=f"{_START} $A {_END}", special_tokens=[(_START, vocabulary[_START]), (_END, vocabulary[_END])]
    )
    special = {"bos_token": _START, "eos_token": _END, "unk_token": _END, pad_field: 0}
    return PreTrainedTokenizerFast(tokenizer_object=backend, clean_up_tokenization_spaces=False, **special)


def build_open_clip(init: str, *, image_size: int, max_tokens: int, channels: int) -> OpenClipModel:
    """Make the model of `open_clip:ARCH` (random, with torch's global generator) or `open_clip:ARCH:FILE`.

    Raises:
        BadInput: a name that open_clip does not have, a text tower that it would download, weights that do not fit.
    """
    _, name, *rest = init.split(":", 2)
    config = open_clip_module().get_model_config(name)
    if config is None:
        raise BadInput(f"open_clip has no architecture {name!r} (open_clip.list_models() lists them).")
    file = Path(rest[0]) if rest else None
    if file is not None and not file.is_file():
        raise BadInput(f"there is no weights file {file}.")
    if file is None:
        config["text_cfg"]["context_length"] = max_tokens
    return _make(
        config, file, image_size=image_size, channels=channels, source=f"open_clip {name}", preprocess=_statistics()
    )


def read_open_clip(folder: Path, *, image_size: int | None = None, channels: int = 3) -> OpenClipModel:
    """Read a folder in the layout of open_clip's `local-dir:`; BadInput names what is missing."""
    content = read_json(folder / CONFIG)
    if "model_cfg" not in content:
        raise BadInput(f"{folder / CONFIG} has no model_cfg.")
    names = (WEIGHTS, "open_clip_pytorch_model.safetensors", "open_clip_pytorch_model.bin")
    file = next((folder / name for name in names if (folder / name).is_file()), None)
    if file is None:
        raise BadInput(f"{folder} has a configuration but no weights: {WEIGHTS} is missing.")
    config = content["model_cfg"]
    side = image_size if image_size is not None else config["vision_cfg"].get("image_size", 224)
    preprocess = _statistics() | content.get("preprocess_cfg", {})
    return _make(
        config, file, image_size=side, channels=channels, source=f"open_clip model of {folder}", preprocess=preprocess
    )


def write_open_clip(model: nn.Module, architecture: dict[str, Any], preprocess: dict[str, Any], folder: Path) -> None:
    """Write configuration and weights into `folder`, as open_clip's `local-dir:` reads them."""
    statistics = {name: [float(value) for value in preprocess[name]] for name in ("mean", "std")}
    constants = {"size": int(preprocess["image_size"]), "interpolation": "bicubic", "resize_mode": "shortest"}
    content = {"model_cfg": architecture, "preprocess_cfg": statistics | constants}
    (folder / CONFIG).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    save_file(tensors, folder / WEIGHTS)


def _statistics() -> dict[str, Any]:
    constants = open_clip_module().constants
    return {"mean": list(constants.OPENAI_DATASET_MEAN), "std": list(constants.OPENAI_DATASET_STD)}


def _make(
    config: dict[str, Any],
    file: Path | None,
    *,
    image_size: int,
    channels: int,
    source: str,
    preprocess: dict[str, Any],
) -> OpenClipModel:
    if channels != 3:
        raise BadInput(f"open_clip's models take 3 channels, got {channels}.")
    config = copy.deepcopy(config)
    for refused, why in (
        ("multimodal_cfg", "it writes captions too"),
        ("hf_model_name", "open_clip downloads its text tower"),
    ):
        if refused in config or config["text_cfg"].get(refused):
            raise BadInput(f"{source} is not taken: {why}.")
    config["vision_cfg"] |= {"image_size": image_size, "patch_dropout": 0.0}
    if "timm_model_name" in config["vision_cfg"]:
        config["vision_cfg"] |= {"timm_model_pretrained": False, "timm_drop": 0.0, "timm_drop_path": None}
    model = _instance(config, source)
    if file is not None:
        _load(model, file)
    means = {name: [float(value) for value in preprocess[name]] for name in ("mean", "std")}
    return OpenClipModel(model=model, architecture=config, is_random=file is None, source=source, **means)


def _instance(config: dict[str, Any], source: str) -> nn.Module:
    settings = copy.deepcopy(config)  # open_clip's constructors write into it
    kind = "CustomTextCLIP" if settings.pop("custom_text", False) else "CLIP"
    try:
        return getattr(open_clip_module(), kind)(**settings)
    except Exception as error:  # a library raises anything on a broken file
        raise BadInput(f"{source} cannot be built: {reason(error)}.") from error


def _load(model: nn.Module, file: Path) -> None:
    try:
        open_clip_module().load_checkpoint(model, str(file), weights_only=True)
    except Exception as error:  # a library raises anything on a broken file
        why = reason(error)
        raise BadInput(f"the weights in {file} do not fit: {why}.") from error
    model.to(torch.float32)  # a half-precision file trains in full precision
