"""Where a dual encoder starts: at random, at a former run, or at local weights of transformers or open_clip."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sfumato.base import BadInput
from sfumato.models.dual_freeze import choose_dual
from sfumato.models.dual_sizes import DUAL_SIZES, build_dual
from sfumato.models.dual_sources import Wanted, locate_dual, read_two, read_whole, require_end, statistics
from sfumato.models.foreign import names_the_model
from sfumato.models.initialise import as_key, torch_seed
from sfumato.models.open_clip_door import CONFIG, OpenClipModel, build_open_clip, read_open_clip
from sfumato.models.started import StartedTowers
from sfumato.models.still_norms import hold_batch_norms
from sfumato.models.tokenizer import Tokenizer
from sfumato.models.towers import Towers

_HALF = 0.5  # mean and standard deviation of pixels where no checkpoint says otherwise


@dataclass(frozen=True, kw_only=True)
class _Made:
    """A model, how it is called, its normalisation (None: the default) and where it comes from."""

    model: nn.Module
    embed: Towers
    statistics: tuple[list[float], list[float]] | None
    notes: list[str]
    is_random: bool


@names_the_model
def start_dual(
    *,
    tokenizer: Tokenizer,
    image_size: int,
    max_tokens: int,
    seed: bytes | int,
    channels: int = 3,
    size: str | None = None,
    init: str | Path | None = None,
    train: str = "all",
    dropout: float = 0.0,
    embed_dim: int | None = None,
    train_temperature: bool = False,
) -> StartedTowers:
    """Return a dual encoder that starts at random, at a former run, or at local weights; nothing is downloaded.

    Args:
        tokenizer: of this run; a checkpoint's own where there is one (`Tokenizer.from_checkpoint`, `of_open_clip`).
        image_size: S, pixels a side. Image positions of a checkpoint of another size are interpolated.
        max_tokens: L, public length of a text, start and end tokens included.
        seed: 32 secret bytes, or a number. The initial weights are public.
        channels: 3, or 1 for gray pictures.
        size: `micro` or `tiny`, without `init`.
        init: folder of a run or of a CLIPModel, SiglipModel, VisionTextDualEncoderModel or open_clip model;
            `IMAGE_FOLDER+TEXT_FOLDER`, two encoders that get new projections; `open_clip:ARCH` (random weights) or
            `open_clip:ARCH:FILE`.
        train: `all`, `heads` or `last-K` (see `choose_dual`).
        dropout: probability in both towers; stochastic depth is off.
        embed_dim: d, where the projections are new; a checkpoint's own otherwise.
        train_temperature: train `logit_scale` too, for `Contrast(log_scale=...)`.

    Raises:
        BadInput: naming the setting, what the folder lacks, or the tensor that does not fit.
    """
    if max_tokens < 3:
        raise BadInput(f"max_tokens must be >= 3 (start, one word and end), got {max_tokens}.")
    if embed_dim is not None and embed_dim < 1:
        raise BadInput(f"embed_dim must be >= 1, got {embed_dim}.")
    wanted = Wanted(
        tokenizer=tokenizer,
        image_size=image_size,
        max_tokens=max_tokens,
        channels=channels,
        dropout=dropout,
        embed_dim=embed_dim,
        seed=seed,
    )
    made = _made(size, init, wanted)
    made.model.train()
    held = hold_batch_norms(made.model)
    if held and made.is_random:
        raise BadInput(f"{held[0]} is a BatchNorm, which couples the rows of a batch: give weights, or another model.")
    log_scale = _log_scale(made.model, train_temperature)
    sample = _synthetic(wanted)
    training = choose_dual(made.model, made.embed, train, sample, train_temperature=train_temperature)
    mean, std = made.statistics if made.statistics else ([_HALF] * channels, [_HALF] * channels)
    return StartedTowers(
        model=made.model,
        embed=made.embed,
        tokenizer=tokenizer,
        preprocess={"image_size": image_size, "mean": mean, "std": std, "channels": channels},
        training=training,
        notes=(*made.notes, *_about_scale(made.model, log_scale), *_about_norms(held)),
        log_scale=log_scale,
    )


def _made(size: str | None, init: str | Path | None, wanted: Wanted) -> _Made:
    if init is None:
        return _at_random(size, wanted)
    if size is not None:
        raise BadInput(f"size={size} is for a start without a checkpoint, and init={init} was given.")
    if str(init).startswith("open_clip:"):
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(torch_seed(as_key(wanted.seed), "assemble"))
            found = build_open_clip(
                str(init), image_size=wanted.image_size, max_tokens=wanted.max_tokens, channels=wanted.channels
            )
        return _of_open_clip(found, wanted)
    if "+" in str(init) and not Path(init).is_dir():
        image, text = (locate_dual(part) for part in str(init).split("+", 1))
        model, notes = read_two(image, text, wanted)
        return _of_transformers(model, notes, wanted, statistics(image))
    path = locate_dual(init)
    if (path / CONFIG).is_file() and not (path / "config.json").is_file():
        return _of_open_clip(read_open_clip(path, image_size=wanted.image_size, channels=wanted.channels), wanted)
    model, notes = read_whole(path, wanted)
    return _of_transformers(model, notes, wanted, statistics(path))


def _at_random(size: str | None, wanted: Wanted) -> _Made:
    if size is None:
        raise BadInput(f"a start without a checkpoint needs a size: {' or '.join(DUAL_SIZES)}.")
    model = build_dual(
        size,
        tokenizer=wanted.tokenizer,
        image_size=wanted.image_size,
        max_tokens=wanted.max_tokens,
        channels=wanted.channels,
        seed=wanted.seed,
        dropout=wanted.dropout,
        embed_dim=wanted.embed_dim,
    )
    return _of_transformers(model, [f"random weights of size {size}"], wanted, None)


def _of_transformers(
    model: Any, notes: list[str], wanted: Wanted, means: tuple[list[float], list[float]] | None
) -> _Made:
    require_end(model.config.text_config, wanted.tokenizer)
    if model.config.model_type == "vision-text-dual-encoder":
        _require_pooled(model, wanted)
    embed = Towers("transformers", wanted.tokenizer.pad_id)
    is_random = notes[0].startswith("random")
    return _Made(model=model, embed=embed, statistics=means, notes=notes, is_random=is_random)


def _of_open_clip(found: OpenClipModel, wanted: Wanted) -> _Made:
    _fit_open_clip(found, wanted)
    embed = Towers("open_clip", wanted.tokenizer.pad_id, json.dumps(found.architecture, sort_keys=True))
    weights = "random weights" if found.is_random else "its weights"
    return _Made(
        model=found.model,
        embed=embed,
        statistics=(found.mean, found.std),
        notes=[f"{found.source}, {weights}"],
        is_random=found.is_random,
    )


def _fit_open_clip(found: OpenClipModel, wanted: Wanted) -> None:
    """Raise BadInput where the run's constants are not those of an open_clip model."""
    text, words = found.text, wanted.tokenizer
    if wanted.dropout > 0:
        raise BadInput("open_clip's models have no dropout: leave dropout at 0.")
    if wanted.embed_dim not in (None, found.architecture["embed_dim"]):
        raise BadInput(
            f"{found.source} embeds into {found.architecture['embed_dim']} dimensions, "
            f"embed_dim asks for {wanted.embed_dim}."
        )
    if text["context_length"] != wanted.max_tokens:
        length = text["context_length"]
        raise BadInput(f"{found.source} reads texts of {length} tokens: set max_tokens to {length}.")
    if (words.vocab_size, words.pad_id) != (text["vocab_size"], text["pad_id"]):
        raise BadInput(
            f"{found.source} has {text['vocab_size']} tokens and padding {text['pad_id']}, the tokenizer has "
            f"{words.vocab_size} and {words.pad_id}: start with Tokenizer.of_open_clip()."
        )
    end = {"argmax": words.vocab_size - 1, "eos": text["eos_id"]}.get(text["pool_type"], words.eos_id)
    if words.eos_id != end:
        raise BadInput(f"{found.source} reads a text at token {end}, the tokenizer ends it with {words.eos_id}.")


def _require_pooled(model: Any, wanted: Wanted) -> None:
    """Raise BadInput unless both towers give a pooled vector of the width that the projections take."""
    sample = _synthetic(wanted)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        image = model.vision_model(pixel_values=sample["pixel_values"])
        text = model.text_model(input_ids=sample["input_ids"])
    for tower, out, width in (("image", image, model.vision_embed_dim), ("text", text, model.text_embed_dim)):
        pooled = getattr(out, "pooler_output", None)
        if pooled is None or pooled.shape != (1, width):
            raise BadInput(f"the {tower} tower gives no pooled vector of {width} numbers, which the projection needs.")


def _synthetic(wanted: Wanted) -> dict[str, Tensor]:
    pixels = torch.zeros(1, wanted.channels, wanted.image_size, wanted.image_size)
    return {"pixel_values": pixels, "input_ids": wanted.tokenizer.encode_texts(["a"], wanted.max_tokens)}


def _log_scale(model: nn.Module, train_temperature: bool) -> str | None:
    if train_temperature and "logit_scale" not in dict(model.named_parameters()):
        raise BadInput("train_temperature needs a model with a logit_scale.")
    return "logit_scale" if train_temperature else None


def _about_scale(model: nn.Module, log_scale: str | None) -> list[str]:
    scale = model.get_parameter("logit_scale").detach().exp().item()
    if log_scale:
        notes = [f"the temperature trains: logit_scale starts at exp = {scale:.4g}, clipped like any parameter"]
    else:
        notes = [f"the model's own logit_scale (exp = {scale:.4g}) is frozen and unused: the temperature is the loss's"]
    if "logit_bias" in dict(model.named_parameters()):
        notes.append("the model's own logit_bias is frozen and unused")
    return notes


def _about_norms(held: list[str]) -> list[str]:
    return [f"{len(held)} BatchNorm layers keep the checkpoint's statistics"] if held else []
