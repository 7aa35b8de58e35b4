"""What trains of a vision-language model: everything that the loss reaches, or what `adapt` chooses."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from sfumato.base import BadInput
from sfumato.models.adapters import adapt
from sfumato.models.families import Family
from sfumato.models.freeze import Training, unreached_by
from sfumato.models.still_norms import hold_batch_norms


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """A model whose parameters' `requires_grad` are set.

    Attributes:
        save: writes adapters in their own format, or None where the whole model is written.
    """

    model: nn.Module
    training: Training
    notes: tuple[str, ...]
    save: Callable[[Path], object] | None


def choose_parameters(
    model: nn.Module, family: Family, train: str, adapter: Any, *, base: str = "", seed: bytes | int = 0
) -> Chosen:
    """Set what trains; BatchNorm keeps its statistics, and what no gradient can reach is frozen by name.

    Args:
        base: what a saved adapter says of the model under it.
        seed: of an adapter's initial values.

    Raises:
        BadInput: `train` is none that the model knows.
    """
    hold_batch_norms(model)
    if train == "all" and adapter is None:
        chosen = _everything(model)
    else:
        chosen = _adapted(model, family, train, adapter, base, seed)
    out_of_reach = unreached(chosen.model, family)
    frozen_too = [name for name in chosen.training.trainable if name in out_of_reach]
    for name in frozen_too:
        chosen.model.get_parameter(name).requires_grad_(False)
    training = replace(
        chosen.training,
        trainable=tuple(name for name in chosen.training.trainable if name not in out_of_reach),
        unreached=(*chosen.training.unreached, *frozen_too),
    )
    if not training.trainable:
        raise BadInput(f"train={train}: nothing is left that the loss reaches.")
    return replace(chosen, training=training)


def unreached(model: nn.Module, family: Family) -> set[str]:
    """Return the names of the parameters that the logits do not depend on, found on one synthetic row."""
    return unreached_by(model, lambda whole: synthetic_logits(whole, family)) | set(family.idle)


def synthetic_logits(model: nn.Module, family: Family) -> Tensor:
    """Return the logits of one row that is nobody's: a black picture, one letter asked and one answered."""
    device = next(model.parameters()).device
    row = family.encode(np.zeros((32, 32, 3), np.uint8), "a", "b")
    return family.logits(model, {name: value[None].to(device) for name, value in row.items()})


def _everything(model: nn.Module) -> Chosen:
    names = []
    for name, param in model.named_parameters():
        param.requires_grad_(True)
        names.append(name)
    training = Training(trainable=tuple(names), frozen=(), absent=(), unreached=())
    return Chosen(model=model, training=training, notes=(), save=None)


def _adapted(model: nn.Module, family: Family, train: str, adapter: Any, base: str, seed: bytes | int) -> Chosen:
    """Leave the choice to `adapters.adapt`."""
    found = adapt(model, train, adapter, reach=lambda whole: synthetic_logits(whole, family), base=base, seed=seed)
    return Chosen(model=found.model, training=found.training, notes=tuple(found.notes), save=found.save)
