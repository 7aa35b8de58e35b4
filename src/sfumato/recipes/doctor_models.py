"""From what the doctor is asked about to a model, a loss and made-up rows: the one place that knows kinds of models."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sfumato import losses, mechanisms, models
from sfumato.base import BadInput
from sfumato.losses import Contrast
from sfumato.mechanisms import LossFn
from sfumato.models.bare import Bare, bare_folder, bare_timm
from sfumato.models.dual_freeze import choose_dual
from sfumato.models.dual_sizes import build_dual
from sfumato.models.encoder_train import choose_encoder, set_training, unreached
from sfumato.models.freeze import choose
from sfumato.models.open_clip_door import build_open_clip, open_clip_module
from sfumato.models.still_norms import hold_batch_norms
from sfumato.plan import InfoNCE
from sfumato.recipes.config import CONFIG
from sfumato.recipes.doctor_feed import feed_of
from sfumato.recipes.trained import open_trained

_WORDS = 200  # vocabulary of a dual encoder that starts at random
_TEXT = 16  # tokens of a text where nothing says how many
UNITS = ("example", "group")


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What the doctor is asked about; plain values, so that a fresh process can be asked the same.

    Attributes:
        model: a folder, `open_clip:NAME[:FILE]`, `timm:NAME[:FILE]`, or a built-in size.
        kind: of a built-in size or timm model: `captioner`, `towers`, `encoder` (two views); None: what is usual.
        train: which parameters train.
        unit: `example` or `group`; None: what the loss allows, example first.
        group_size: rows of a group.
        image_size, channels, max_tokens: public shapes; None: those of the model.
        batch_norm: of timm: `keep`, `frozen` or `group`.
    """

    model: str
    kind: str | None = None
    train: str = "all"
    unit: str | None = None
    group_size: int = 16
    image_size: int | None = None
    channels: int | None = None
    max_tokens: int | None = None
    batch_norm: str = "keep"

    def to_json(self) -> str:
        """Return the fields as JSON."""
        return json.dumps(asdict(self))


@dataclass(frozen=True, kw_only=True)
class Case:
    """A model with everything that a step needs.

    Attributes:
        source: the model in words.
        model: in training mode, `requires_grad` set.
        loss_fn: one value per row, or a `Contrast`.
        batch: n -> n made-up rows, texts at full length.
        synthetic: n -> rows for the engine's checks; None: twins of a batch, as in training.
        training: which parameters train.
        unit: `example` or `group`.
        encode: texts and their length -> ids, for public rows; None where the model has no tokenizer.
        text_name: of these ids in a batch.
        notes: what else is to be said of the model.
        image_size, channels: of pictures.
    """

    source: str
    model: nn.Module
    loss_fn: LossFn | Contrast
    batch: Callable[[int], Any]
    synthetic: Callable[[int], Any] | None = None
    training: models.Training
    unit: str
    encode: Callable[[list[str], int], Tensor] | None = None
    text_name: str = ""
    notes: tuple[str, ...] = ()
    image_size: int
    channels: int

    @property
    def computation(self) -> mechanisms.Computation:
        """What a step is computed with."""
        return mechanisms.Computation(model=self.model, loss_fn=self.loss_fn, synthetic=self.synthetic)


def open_case(asked: Asked, *, room_bytes: float | None = None) -> Case:
    """Return the model that is asked about, its loss and made-up rows. No data set is touched.

    Raises:
        BadInput: a name, folder or setting that does not fit.
        Refused: a model that cannot be trained at all.
    """
    if asked.unit not in (None, *UNITS):
        raise BadInput(f"the unit is {' or '.join(UNITS)}, got {asked.unit!r}. Pairs: sfumato plan logit-dp.")
    source, _, rest = asked.model.partition(":")
    if source == "open_clip" and rest:
        return _open_clip(asked, rest)
    if source == "timm" and rest:
        return _timm(asked, *_name_and_file(rest))
    path = Path(asked.model)
    if path.is_dir():
        if (path / CONFIG).is_file():
            return _of_run(asked, path)
        bare = bare_folder(path, room_bytes=room_bytes)
        return {"captioner": _captioner, "towers": _towers, "words": _words}[bare.kind](asked, bare)
    return _built_in(asked)


def contrast_unit(asked: Asked) -> str:
    """Return the unit of a loss in which rows meet.

    Raises:
        Refused: the example unit, in the words of training.
    """
    if asked.unit == "example":
        nothing: Any = None
        loss = Contrast(embed=nothing, loss=InfoNCE(temperature=0.2))
        computation = mechanisms.Computation(model=nn.Linear(1, 1), loss_fn=loss)
        mechanisms.clip_examples(computation, [], nothing, mechanisms.flat(1.0))  # pyright: ignore[reportArgumentType]
    return "group"


def _row_unit(asked: Asked) -> str:
    if asked.unit == "group":
        raise BadInput("this loss is one value per row: its unit is example, which needs half the noise of a group.")
    return "example"


def _name_and_file(rest: str) -> tuple[str, str | None]:
    name, _, file = rest.partition(":")
    return name, file or None


def _about(bare: Bare) -> tuple[str, ...]:
    return (*(("random weights: the folder or name gives none",) if bare.is_random else ()), *bare.notes)


def _tokenizer(asked: Asked) -> models.Tokenizer | None:
    """Return the tokenizer of a folder or of open_clip, None where there is none."""
    if asked.model.startswith("open_clip:"):
        return models.Tokenizer.of_open_clip()
    try:
        return models.Tokenizer.from_checkpoint(asked.model)
    except BadInput:
        return None


# ---------------------------------------------------------------- captioners


def _captioner(asked: Asked, bare: Bare) -> Case:
    model, size = bare.model, asked.image_size or bare.image_size
    training = choose(model, asked.train, image_size=size, decoder_is_new=False, words_are_new=False)
    text, tokenizer = model.config.decoder, _tokenizer(asked)
    length = asked.max_tokens or min(int(getattr(text, "max_position_embeddings", _TEXT)), 64)

    def batch(num_rows: int) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(0)
        return {
            "pixel_values": torch.randn(num_rows, bare.channels, size, size, generator=generator),
            "labels": torch.randint(
                min(5, text.vocab_size - 1), text.vocab_size, (num_rows, length), generator=generator
            ),
        }

    return Case(
        source=bare.source,
        model=model,
        loss_fn=losses.caption_loss,
        batch=batch,
        training=training,
        unit=_row_unit(asked),
        encode=None if tokenizer is None else tokenizer.encode,
        text_name="labels",
        notes=_about(bare),
        image_size=size,
        channels=bare.channels,
    )


def _built_in(asked: Asked) -> Case:
    if asked.kind == "towers" and asked.model in models.DUAL_SIZES:
        return _towers(asked, _random_towers(asked))
    if asked.kind in (None, "captioner") and asked.model in models.SIZES:
        spec = models.SIZES[asked.model]
        size, channels = asked.image_size or spec.image_size, asked.channels or 3
        length = asked.max_tokens or spec.max_tokens
        model = models.build(
            asked.model, vocab_size=spec.vocab_size, image_size=size, max_tokens=length, channels=channels, seed=0
        )
        source = f"captioner of size {asked.model}"
        bare = Bare(kind="captioner", model=model, source=source, is_random=True, image_size=size, channels=channels)
        return _captioner(replace(asked, max_tokens=length), bare)
    if asked.kind in (None, "encoder") and asked.model in ("small-conv", "resnet18", "resnet18-group", "micro"):
        return _views(asked, asked.model)
    raise BadInput(
        f"{asked.model!r} is no folder, and no built-in size: a captioner ({', '.join(models.SIZES)}), with --kind "
        f"towers {' or '.join(models.DUAL_SIZES)}, with --kind encoder small-conv, resnet18, resnet18-group or micro; "
        "or give open_clip:NAME or timm:NAME."
    )


# ---------------------------------------------------------------- dual encoders


def _random_towers(asked: Asked) -> Bare:
    tokenizer = models.Tokenizer.from_public_text([" ".join(f"word{i}" for i in range(_WORDS))])
    size, channels = asked.image_size or (224 if asked.model == "tiny" else 112), asked.channels or 3
    model = build_dual(
        asked.model,
        tokenizer=tokenizer,
        image_size=size,
        max_tokens=asked.max_tokens or _TEXT,
        channels=channels,
        seed=0,
        dropout=0.0,
        embed_dim=None,
    )
    source = f"dual encoder of size {asked.model}, {tokenizer.vocab_size} words"
    return Bare(kind="towers", model=model, source=source, is_random=True, image_size=size, channels=channels)


def _towers(asked: Asked, bare: Bare) -> Case:
    text = bare.model.config.text_config
    embed = models.Towers("transformers", int(text.pad_token_id or 0))
    length = int(getattr(text, "max_position_embeddings", _TEXT))
    length = length if text.model_type == "siglip_text_model" else asked.max_tokens or min(length, 77)
    held = hold_batch_norms(bare.model) if not bare.is_random else []
    notes = (*_about(bare), *((f"{len(held)} BatchNorm layers keep the checkpoint's statistics",) if held else ()))
    return _dual(asked, replace(bare, notes=notes, is_random=False), embed, length, int(text.vocab_size))


def _dual(asked: Asked, bare: Bare, embed: models.Towers, length: int, vocab_size: int) -> Case:
    size, tokenizer = asked.image_size or bare.image_size, _tokenizer(asked)

    def batch(num_rows: int) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(0)
        words = torch.randint(1, vocab_size - 1, (num_rows, length), generator=generator)
        words[:, -1] = vocab_size - 1  # the end token of CLIP, where the text is read out
        pixels = torch.randn(num_rows, bare.channels, size, size, generator=generator)
        return {"pixel_values": pixels, "input_ids": words}

    training = choose_dual(bare.model, embed, asked.train, batch(1), train_temperature=False)
    return Case(
        source=bare.source,
        model=bare.model,
        loss_fn=Contrast(embed=embed, loss=InfoNCE(temperature=0.2)),
        batch=batch,
        training=training,
        unit=contrast_unit(asked),
        encode=None if tokenizer is None else tokenizer.encode_texts,
        text_name="input_ids",
        notes=(*bare.notes, "InfoNCE couples rows: clipped by groups; clipping per example is refused"),
        image_size=size,
        channels=bare.channels,
    )


def _open_clip(asked: Asked, rest: str) -> Case:
    name, file = _name_and_file(rest)
    config = open_clip_module().get_model_config(name)
    if config is None:
        raise BadInput(f"open_clip has no architecture {name!r} (open_clip.list_models() lists them).")
    size = asked.image_size or config["vision_cfg"].get("image_size", 224)
    length = config["text_cfg"].get("context_length", 77) if file else asked.max_tokens or 77
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        found = build_open_clip(asked.model, image_size=int(size), max_tokens=length, channels=3)
    found.model.train()
    if not found.is_random:
        hold_batch_norms(found.model)
    bare = Bare(
        kind="towers", model=found.model, source=found.source, is_random=False, image_size=int(size), channels=3
    )
    bare = replace(bare, notes=("random weights: no file is given",) if found.is_random else ())
    embed = models.Towers("open_clip", found.text["pad_id"], json.dumps(found.architecture, sort_keys=True))
    return _dual(asked, bare, embed, length, found.text["vocab_size"])


# ---------------------------------------------------------------- encoders and classifiers of pictures


def _views(asked: Asked, kind: str) -> Case:
    norm = "frozen" if asked.batch_norm == "frozen" else "group"
    size, channels = asked.image_size or 32, asked.channels or 3
    started = models.start_encoder(
        kind=kind, image_size=size, channels=channels, seed=0, train=asked.train, batch_norm=norm
    )
    return _two_views(asked, started, started.training, size, channels)


def _two_views(asked: Asked, found: Any, training: models.Training, size: int, channels: int) -> Case:
    def batch(num_rows: int) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(0)
        views = torch.randn(2, num_rows, channels, size, size, generator=generator)
        return {"pixel_values": views[0], "other_view": views[1]}

    return Case(
        source=f"{asked.model}, two views of each picture",
        model=found.model,
        loss_fn=Contrast(embed=found.embed, loss=InfoNCE(temperature=0.2)),
        batch=batch,
        training=training,
        unit=contrast_unit(asked),
        notes=(*getattr(found, "notes", ()), "two views meet in the loss: clipped by groups"),
        image_size=size,
        channels=channels,
    )


@dataclass(frozen=True)
class _ClassLoss:
    """Cross entropy of each picture's class, (N,)."""

    def __call__(self, model: nn.Module, batch: Any) -> Tensor:
        return nn.functional.cross_entropy(model(batch["pixel_values"]), batch["labels"], reduction="none")


def _timm(asked: Asked, name: str, file: str | None) -> Case:
    if asked.kind == "encoder":
        return _views(replace(asked, batch_norm="frozen" if asked.batch_norm == "frozen" else "group"), asked.model)
    bare = bare_timm(name, file, channels=asked.channels or 3, image_size=asked.image_size, batch_norm=asked.batch_norm)
    size, model = bare.image_size, bare.model
    classes = int(model.num_classes)

    def batch(num_rows: int) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(0)
        pixels = torch.randn(num_rows, bare.channels, size, size, generator=generator)
        return {"pixel_values": pixels, "labels": torch.randint(0, classes, (num_rows,), generator=generator)}

    training = _chosen(model, asked.train, lambda module: module(batch(2)["pixel_values"][:2]).sum())
    return Case(
        source=f"{bare.source}, {classes} classes",
        model=model,
        loss_fn=_ClassLoss(),
        batch=batch,
        training=training,
        unit=_row_unit(asked),
        notes=_about(bare),
        image_size=size,
        channels=bare.channels,
    )


# ---------------------------------------------------------------- anything that writes text


def _words(asked: Asked, bare: Bare) -> Case:
    size = asked.image_size or bare.image_size
    length = asked.max_tokens or _TEXT
    feed, loss = feed_of(bare.model, image_size=size, channels=bare.channels, max_tokens=length)
    return Case(
        source=bare.source,
        model=bare.model,
        loss_fn=loss,
        batch=feed,
        synthetic=feed,
        training=_chosen(bare.model, asked.train, lambda module: loss(module, feed(1)).sum()),
        unit=_row_unit(asked),
        notes=_about(bare),
        image_size=size,
        channels=bare.channels,
    )


def _chosen(model: nn.Module, train: str, reach: Callable[[nn.Module], Tensor]) -> models.Training:
    """Set what trains of a model that has no chooser of its own."""
    if train == "all":
        names = {name for name, _ in model.named_parameters()}
    elif train == "bias":
        names = {name for name, _ in model.named_parameters() if name.endswith("bias")}
    elif train == "heads":
        names = _head_names(model)
    else:
        raise BadInput(f"of this model train is all, heads or bias, got {train!r}.")
    held = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    return set_training(model, names - held, _unreached(model, reach))


def _head_names(model: Any) -> set[str]:
    find = getattr(model, "get_classifier", None) or getattr(model, "get_output_embeddings", None)
    head = find() if find else None
    if head is None:
        raise BadInput("nothing says which layer of this model is its head: train is all or bias.")
    own = {id(parameter) for parameter in head.parameters()}
    return {name for name, parameter in model.named_parameters() if id(parameter) in own}


def _unreached(model: nn.Module, reach: Callable[[nn.Module], Tensor]) -> set[str]:
    class _Reach(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = model

        def forward(self, nothing: Any) -> Tensor:
            return reach(self.inner)

    was = [(module, module.training) for module in model.modules()]
    model.eval()  # no statistics move, and nothing is drawn
    found = unreached(_Reach(), torch.zeros(()))
    for module, training in was:
        module.training = training
    return {name.removeprefix("inner.") for name in found}


# ---------------------------------------------------------------- runs


def _of_run(asked: Asked, folder: Path) -> Case:
    trained = open_trained(folder)
    loaded, settings = trained.loaded, trained.run.model
    loaded.model.train()
    source = f"{trained.kind} of the run {folder}"
    size, channels = int(loaded.preprocess["image_size"]), int(loaded.preprocess["channels"])
    bare = Bare(
        kind=trained.kind, model=loaded.model, source=source, is_random=False, image_size=size, channels=channels
    )
    length = asked.max_tokens or settings.max_tokens
    if trained.kind == "captioner":
        return _captioner(replace(asked, max_tokens=length), bare)
    if trained.kind == "encoder":
        pixels = torch.zeros(1, channels, size, size)
        training = choose_encoder(loaded.model, asked.train, pixels)
        return _two_views(asked, loaded, training, size, channels)
    if loaded.embed.kind == "pair":
        raise BadInput(f"{folder} holds towers of two packages, of which heads train: the doctor does not open these.")
    length = length or models.text_positions(loaded.model) or _TEXT
    return _dual(asked, bare, loaded.embed, length, loaded.tokenizer.vocab_size)
