"""Dual encoders for the doctor: transformers folders, open_clip, built-in sizes, pairs of packages' towers."""

import json
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from sfumato import models
from sfumato.base import BadInput
from sfumato.models.bare import Bare
from sfumato.models.dual_freeze import choose_dual
from sfumato.models.dual_sizes import build_dual
from sfumato.models.open_clip_door import build_open_clip, open_clip_module
from sfumato.models.pair_start import adapt_text, choose_pair
from sfumato.models.still_norms import hold_batch_norms
from sfumato.recipes.doctor_case import (
    COUPLED,
    Asked,
    Case,
    Choices,
    adapter_of,
    contrast,
    contrast_unit,
    name_and_file,
    no_adapter,
    only,
    text_length,
)
from sfumato.recipes.doctor_train import per_rank

PAIR = "lit"
TEXT = 16  # tokens of a text where nothing says how many
_PARTS = ("heads", "last-1")
_WORDS = 200  # vocabulary of a dual encoder that starts at random
_COUPLED = f"{COUPLED} couples rows: clipped by groups; clipping per example is refused"


def towers_case(asked: Asked, bare: Bare, tokenizer: models.Tokenizer | None) -> Case:
    """Return the two towers of a transformers folder."""
    text = bare.model.config.text_config
    embed = models.Towers("transformers", int(text.pad_token_id or 0))
    most = int(getattr(text, "max_position_embeddings", TEXT))
    length = _fixed(asked, most) if text.model_type == "siglip_text_model" else min(most, 77)
    held = hold_batch_norms(bare.model) if not bare.is_random else []
    notes = (*bare.said, *((f"{len(held)} BatchNorm layers keep the checkpoint's statistics",) if held else ()))
    bare = replace(bare, notes=notes, is_random=False)
    return dual_case(asked, bare, embed, length, int(text.vocab_size), tokenizer)


def dual_case(
    asked: Asked,
    bare: Bare,
    embed: models.Towers,
    length: int,
    vocab_size: int,
    tokenizer: models.Tokenizer | None,
) -> Case:
    """Return two towers with made-up texts of `length` tokens, unless another length is asked for.

    Raises:
        BadInput: `train` is none that these towers know, a setting is not theirs, or texts longer than they read.
        Refused: the unit is the example.
    """
    length = text_length(asked, models.text_positions(bare.model), length)
    size = asked.image_size or bare.image_size

    def batch(num_rows: int) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(0)
        words = torch.randint(1, vocab_size - 1, (num_rows, length), generator=generator)
        words[:, -1] = vocab_size - 1  # the end token of CLIP, where the text is read out
        pixels = torch.randn(num_rows, bare.channels, size, size, generator=generator)
        return {"pixel_values": pixels, "input_ids": words}

    if embed.kind == "pair":
        choices, notes = _of_pair(asked, bare.model)
    else:
        no_adapter(asked)
        choices, notes = _of_dual(bare.model, embed, batch(1)), ()
    assert choices.choose is not None
    return Case(
        source=bare.source,
        model=bare.model,
        loss_fn=contrast(embed),
        batch=batch,
        training=choices.choose(asked.train),
        unit=contrast_unit(asked),
        choices=choices,
        encode=None if tokenizer is None else tokenizer.encode_texts,
        text_name="input_ids",
        notes=(*bare.said, *notes, _COUPLED),
        image_size=size,
        channels=bare.channels,
    )


def _fixed(asked: Asked, positions: int) -> int:
    """Return the length of a model that reads nothing shorter or longer; BadInput where another is asked for."""
    if asked.max_tokens not in (None, positions):
        raise BadInput(f"this model's texts have {positions} tokens, no more and no less: leave out --max-tokens.")
    return positions


def _of_dual(model: Any, embed: models.Towers, row: dict[str, Tensor]) -> Choices:
    def train(what: str) -> models.Training:
        return choose_dual(model, embed, what, row, train_temperature=False)

    return Choices(names=_PARTS, choose=train)


def _of_pair(asked: Asked, model: Any) -> tuple[Choices, tuple[str, ...]]:
    """Return what trains of towers of packages, LoRA put on the text tower where it is asked for, and notes on it."""
    adapter, training, notes = adapter_of(asked), None, ()
    if asked.train in ("lora", "dora"):
        training, notes = adapt_text(model, asked.train, adapter, base="", seed=0)

    def train(what: str) -> models.Training:
        return training if training is not None and what == asked.train else choose_pair(model, what)

    def lora() -> tuple[int, int]:
        heads = (model.image_projection, model.text_projection)
        return sum(head.weight.numel() for head in heads), per_rank(model.text)

    return Choices(names=_PARTS, choose=train, lora=lora), notes


def built_in_towers(asked: Asked) -> Case:
    """Return two towers of a built-in size with random weights."""
    only(asked, "a dual encoder", "kind", "image_size", "channels", "max_tokens")
    tokenizer = models.Tokenizer.from_public_text([" ".join(f"word{i}" for i in range(_WORDS))])
    size, channels = asked.image_size or (224 if asked.model == "tiny" else 112), asked.channels or 3
    model = build_dual(
        asked.model,
        tokenizer=tokenizer,
        image_size=size,
        max_tokens=asked.max_tokens or TEXT,
        channels=channels,
        seed=0,
        dropout=0.0,
        embed_dim=None,
    )
    source = f"dual encoder of size {asked.model}, {tokenizer.vocab_size} words"
    bare = Bare(kind="towers", model=model, source=source, is_random=True, image_size=size, channels=channels)
    return towers_case(asked, bare, None)


def packages_case(asked: Asked) -> Case:
    """Return the pair of pretrained towers that packages carry, with random projections.

    Raises:
        BadInput: a package is not installed.
    """
    started = models.lit_pair(train="heads", seed=0)
    return pair_case(replace(asked, kind=None), started, "pretrained towers of packages (lit)", started.notes)


def pair_case(asked: Asked, towers: Any, source: str, notes: tuple[str, ...] = ()) -> Case:
    """Return a started or loaded pair of packages' towers; BadInput for a setting that is not theirs."""
    only(asked, "the towers of packages", "max_tokens")
    size, channels = int(towers.preprocess["image_size"]), int(towers.preprocess["channels"])
    bare = Bare(
        kind="towers",
        model=towers.model,
        source=source,
        is_random=False,
        image_size=size,
        channels=channels,
        notes=notes,
    )
    case = dual_case(asked, bare, towers.embed, TEXT, towers.tokenizer.vocab_size, towers.tokenizer)
    towers.model.train()  # a tower of which nothing trains stays in evaluation mode
    return case


def open_clip_case(asked: Asked, rest: str) -> Case:
    """Return open_clip's NAME[:FILE].

    Raises:
        BadInput: open_clip has no such architecture, or the file does not fit.
    """
    only(asked, "open_clip's models", "image_size", "max_tokens")
    name, file = name_and_file(rest)
    config = open_clip_module().get_model_config(name)
    if config is None:
        raise BadInput(f"open_clip has no architecture {name!r} (open_clip.list_models() lists them).")
    size = asked.image_size or config["vision_cfg"].get("image_size", 224)
    own = config["text_cfg"].get("context_length", 77)
    length = _fixed(asked, own) if file else asked.max_tokens or 77
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        found = build_open_clip(asked.model, image_size=int(size), max_tokens=length, channels=3)
    found.model.train()
    if not found.is_random:
        hold_batch_norms(found.model)
    bare = Bare(
        kind="towers",
        model=found.model,
        source=found.source,
        is_random=False,
        image_size=int(size),
        channels=3,
        notes=("random weights: no file is given",) if found.is_random else (),
    )
    embed = models.Towers("open_clip", found.text["pad_id"], json.dumps(found.architecture, sort_keys=True))
    tokenizer = models.Tokenizer.of_open_clip()
    return dual_case(asked, bare, embed, length, found.text["vocab_size"], tokenizer)
