"""Models of pictures alone for the doctor: timm's classifiers, and encoders on two views of a picture."""

import re
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sfumato import models
from sfumato.base import BadInput
from sfumato.models.bare import Bare, bare_timm
from sfumato.models.encoder_train import choose_encoder, last_blocks, timm_blocks
from sfumato.models.modeling_sfumato_timm import batch_norms
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
    row_unit,
)
from sfumato.recipes.doctor_train import PARTS, Reach, adapted, choices_of, chosen, held_names

_NO_NORMS = "this model has no BatchNorm: leave out --batch-norm."
ENCODERS = ("small-conv", "resnet18", "resnet18-group", "micro")


def views_case(asked: Asked, kind: str) -> Case:
    """Return an encoder of a built-in size or of timm, for a loss of two views.

    Raises:
        BadInput: a setting that is not the encoder's.
    """
    theirs = ("batch_norm",) if kind.startswith("timm:") else ()
    only(asked, "an encoder", "kind", "image_size", "channels", *theirs)
    if asked.batch_norm == "keep":
        raise BadInput("under two views --batch-norm is group (usual) or frozen: BatchNorm in training couples rows.")
    size, channels = asked.image_size or 32, asked.channels or 3
    no_adapter(asked)
    started = models.start_encoder(
        kind=kind, image_size=size, channels=channels, seed=0, train=asked.train, batch_norm=asked.batch_norm or "group"
    )
    model: Any = started.model
    if asked.batch_norm and model.settings.batch_norm == "none":
        raise BadInput(_NO_NORMS)
    return two_views_case(asked, started, size, channels)


def two_views_case(asked: Asked, found: Any, size: int, channels: int) -> Case:
    """Return a started or loaded encoder with two made-up views of each picture.

    Raises:
        BadInput: `train` is none that encoders know, or a setting is not theirs.
        Refused: the unit is the example.
    """
    no_adapter(asked)

    def train(what: str) -> models.Training:
        return choose_encoder(found.model, what, torch.zeros(1, channels, size, size))

    def batch(num_rows: int) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(0)
        views = torch.randn(2, num_rows, channels, size, size, generator=generator)
        return {"pixel_values": views[0], "other_view": views[1]}

    return Case(
        source=f"{asked.model}, two views of each picture",
        model=found.model,
        loss_fn=contrast(found.embed),
        batch=batch,
        training=train(asked.train),
        unit=contrast_unit(asked),
        choices=Choices(names=("heads", "last-1"), choose=train),
        notes=(*getattr(found, "notes", ()), f"two views meet in {COUPLED}: clipped by groups"),
        image_size=size,
        channels=channels,
    )


@dataclass(frozen=True)
class ClassLoss:
    """Cross entropy of each picture's class, (N,), pictures in the type of the first weights."""

    def __call__(self, model: nn.Module, batch: Any) -> Tensor:
        pixels = batch["pixel_values"].to(next(model.parameters()).dtype)
        logits = model(pixels)
        wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
        return nn.functional.cross_entropy(wide, batch["labels"], reduction="none")


def timm_case(asked: Asked, rest: str) -> Case:
    """Return timm's NAME[:FILE] with its own classifier; with `kind` encoder, on two views.

    Raises:
        BadInput: timm has no such model, or it does not have what shall train.
    """
    only(asked, "timm's models", "kind", "image_size", "channels", "batch_norm")
    if asked.kind == "encoder":
        return views_case(asked, asked.model)
    if asked.kind is not None:
        raise BadInput(f"--kind {asked.kind} is none of timm's: leave it out for the classifier, or --kind encoder.")
    name, file = name_and_file(rest)
    bare = _classifier(asked, name, file)
    size, model = bare.image_size, bare.model
    classes, loss = int(model.num_classes), ClassLoss()

    def batch(num_rows: int) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(0)
        pixels = torch.randn(num_rows, bare.channels, size, size, generator=generator)
        return {"pixel_values": pixels, "labels": torch.randint(0, classes, (num_rows,), generator=generator)}

    found, choices = _of_classifier(asked, model, name, lambda module: loss(module, batch(2)).sum())
    return Case(
        source=f"{bare.source}, {classes} classes",
        model=found.model,
        loss_fn=loss,
        batch=batch,
        training=found.training,
        unit=row_unit(asked),
        choices=choices,
        notes=(*bare.said, *found.notes),
        image_size=size,
        channels=bare.channels,
    )


def _classifier(asked: Asked, name: str, file: str | None) -> Bare:
    shape = {"channels": asked.channels or 3, "image_size": asked.image_size}
    if asked.batch_norm in ("frozen", "group") and not batch_norms(bare_timm(name, None, **shape).model):
        raise BadInput(_NO_NORMS)
    return bare_timm(name, file, **shape, batch_norm=asked.batch_norm or "keep")


def _of_classifier(asked: Asked, model: Any, name: str, reach: Reach) -> tuple[models.Adapted, Choices]:
    """Set what trains: heads and last blocks as timm names them, all else by `adapt`."""
    held, others = held_names(model), choices_of(model, reach)

    def train(what: str) -> models.Training:
        if what == "heads" or re.fullmatch(r"last-[1-9]\d*", what):
            return chosen(model, _behind(model, what, name) - held, reach)
        assert others.choose is not None
        return others.choose(what)

    choices = Choices(names=PARTS, choose=train, lora=others.lora)
    if asked.train == "heads" or asked.train.startswith("last-"):
        adapter_of(asked)
        return models.Adapted(model=model, training=train(asked.train), notes=(), save=None), choices
    return adapted(asked, model, reach), choices


def _behind(model: Any, train: str, name: str) -> set[str]:
    """Return the names in timm's classifier, and in the last layer groups for `last-K`."""
    found = model.get_classifier()
    own = {id(parameter) for parameter in found.parameters()} if isinstance(found, nn.Module) else set()
    head = {key for key, parameter in model.named_parameters() if id(parameter) in own}
    if not head:
        raise BadInput(f"{name} has no classifier of its own: train is all or bias.")
    if train == "heads":
        return head
    return head | last_blocks(timm_blocks(model, head, name), int(train.removeprefix("last-")), name)
