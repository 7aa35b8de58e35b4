"""Exports: folders that transformers loads without sfumato, and the reader of such a folder."""

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from transformers import PreTrainedModel, VisionEncoderDecoderModel, ViTConfig, ViTImageProcessor, ViTModel

from sfumato.base import BadInput
from sfumato.models import modeling_sfumato_stem
from sfumato.models.captioner import tower
from sfumato.models.checkpoint import VIT_FIELDS, WHOLE, load_model
from sfumato.models.folders import locate, quiet, read_json, require_weights
from sfumato.models.modeling_sfumato_stem import StemConfig
from sfumato.models.tokenizer import Tokenizer
from sfumato.models.whole_folder import room_for

PREPROCESSOR = "preprocessor_config.json"


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """An export read back: the captioner in evaluation mode, its tokenizer and its normalisation."""

    model: VisionEncoderDecoderModel
    tokenizer: Tokenizer
    preprocess: dict[str, Any]


def export(
    model: VisionEncoderDecoderModel,
    tokenizer: Tokenizer,
    preprocess: Mapping[str, Any],
    folder: str | Path,
    *,
    part: Literal["model", "encoder"] = "model",
) -> Path:
    """Write a folder that `VisionEncoderDecoderModel.from_pretrained` reads (`part="encoder"`: its encoder's class).

    The files are written beside the folder first. A new folder appears whole; in an existing one each file is replaced
    whole, the weights last, and files of other names stay.

    Args:
        preprocess: `image_size`, `mean`, `std`, `channels` of the run, written as transformers' image processor.
        part: the captioner, or the image encoder alone: a plain ViT (load it with `add_pooling_layer=False`), or the
            encoder's own class where it is another.

    Returns:
        The folder.
    """
    if part not in ("model", "encoder"):
        raise BadInput(f"part is model or encoder, got {part!r}.")
    with written_beside(folder) as beside:
        with quiet():
            (model if part == "model" else plain_encoder(model)).save_pretrained(str(beside), max_shard_size="1TB")
        if tower(model, "encoder").config.model_type == StemConfig.model_type:  # the class travels with its weights
            shutil.copyfile(str(modeling_sfumato_stem.__file__), beside / "modeling_sfumato_stem.py")
        if part == "model":
            tokenizer.save(beside)
        image_processor(preprocess).save_pretrained(str(beside))
    return Path(folder)


def plain_encoder(model: VisionEncoderDecoderModel) -> PreTrainedModel:
    """Return the image encoder as transformers' `ViTModel`, sharing the weights, or as it is if it is no ViT."""
    encoder = tower(model, "encoder")
    if encoder.config.model_type != "vit_msn":
        return encoder
    plain = ViTModel._from_config(
        ViTConfig(**{name: getattr(encoder.config, name) for name in VIT_FIELDS}),
        add_pooling_layer=False,
        attn_implementation=encoder.config._attn_implementation,
    )
    plain.load_state_dict(encoder.state_dict())
    return plain.eval()


def load_export(folder: str | Path) -> Loaded:
    """Read what `export` wrote (or a run's folder that holds it); BadInput names what is missing."""
    path = locate(folder)
    if read_json(path / "config.json").get("model_type") != WHOLE:
        raise BadInput(f"{path} holds no captioner (a VisionEncoderDecoderModel).")
    require_weights(path)
    preprocess = read_preprocess(path)
    tokenizer = Tokenizer.from_checkpoint(path)
    model: Any = load_model(VisionEncoderDecoderModel, path)
    return Loaded(model=model.eval(), tokenizer=tokenizer, preprocess=preprocess)


def read_preprocess(path: Path) -> dict[str, Any]:
    """Return `image_size`, `mean`, `std`, `channels` of an export; BadInput if the file is missing."""
    processor = read_json(path / PREPROCESSOR)
    return {
        "image_size": processor["crop_size"]["height"],
        "mean": list(processor["image_mean"]),
        "std": list(processor["image_std"]),
        "channels": len(processor["image_mean"]),
    }


def image_processor(preprocess: Mapping[str, Any]) -> ViTImageProcessor:
    """Return the run's normalisation as transformers' image processor; BadInput names what `preprocess` lacks."""
    missing = {"image_size", "mean", "std", "channels"} - set(preprocess)
    if missing:
        raise BadInput(f"the preprocessing lacks {', '.join(sorted(missing))}.")
    side, channels = int(preprocess["image_size"]), int(preprocess["channels"])
    return ViTImageProcessor(
        do_resize=True,
        size={"shortest_edge": side},  # then the centre: the largest centred square, as in evaluation
        do_center_crop=True,
        crop_size={"height": side, "width": side},
        resample=3,  # bicubic
        do_rescale=True,
        rescale_factor=1 / 255,
        do_normalize=True,
        image_mean=_per_channel(preprocess["mean"], channels),
        image_std=_per_channel(preprocess["std"], channels),
        do_convert_rgb=channels == 3,
    )


def _per_channel(values: Any, channels: int) -> list[float]:
    numbers = [float(value) for value in values]
    return numbers * channels if len(numbers) == 1 else numbers  # one number stands for all channels


@contextmanager
def written_beside(folder: str | Path) -> Iterator[Path]:
    """Give a new folder to write into; it appears as `folder` when the `with` ends well, else it is removed."""
    path = Path(folder)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    try:
        with room_for(path):
            yield beside
        _install(beside, path)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _install(beside: Path, path: Path) -> None:
    os.chmod(beside, 0o755)  # mkdtemp makes it private, safetensors its file; an export is for sharing
    for file in beside.iterdir():
        os.chmod(file, 0o644)
    if not path.exists():
        os.rename(beside, path)
        return
    for file in sorted(beside.iterdir(), key=lambda file: file.suffix == ".safetensors"):
        os.replace(file, path / file.name)
