"""What trains of any model: all, heads, the last blocks, biases, or an adapter of peft on frozen weights."""

import math
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sfumato.base import BadInput
from sfumato.models.adapter_blocks import biases_of, heads_of, last_blocks_of
from sfumato.models.adapter_peft import is_adapted, put_lora, save_adapter
from sfumato.models.adapter_targets import ALL_LINEAR, refuse_quantised, targets_of
from sfumato.models.encoder_train import set_training
from sfumato.models.freeze import Training, unreached_by
from sfumato.models.initialise import as_key, torch_seed

ADAPTERS = ("lora", "dora")
_DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True, kw_only=True)
class Adapter:
    """Settings of an adapter; all of them public.

    Attributes:
        rank: r of LoRA and DoRA.
        alpha: LoRA's product is multiplied by alpha / r.
        targets: ends of the names of the linear layers that carry LoRA, as peft reads them; empty: the projections of
            attention; `all-linear`: every linear layer but the vocabulary heads.
        dropout: of the input of LoRA's product; drawn for each row by itself.
        modules_to_save: ends of names of modules that train whole beside LoRA, saved in the adapter.
        frozen_dtype: `bfloat16` or `float16`: frozen weights are cast to it, the adapter stays in float32; None: as
            they are.

    Raises:
        BadInput: a setting is out of range.
    """

    rank: int = 8
    alpha: float = 16.0
    targets: tuple[str, ...] | str = ()
    dropout: float = 0.0
    modules_to_save: tuple[str, ...] = ()
    frozen_dtype: str | None = None

    def __post_init__(self) -> None:
        if isinstance(self.targets, str):
            object.__setattr__(self, "targets", (self.targets,))
        if self.rank < 1:
            raise BadInput(f"the rank of an adapter must be >= 1, got {self.rank}.")
        if not (math.isfinite(self.alpha) and self.alpha > 0):
            raise BadInput(f"alpha of an adapter must be > 0, got {self.alpha}.")
        if not 0 <= self.dropout < 1:
            raise BadInput(f"dropout of an adapter must be in [0, 1), got {self.dropout}.")
        if self.frozen_dtype is not None and self.frozen_dtype not in _DTYPES:
            raise BadInput(f"frozen_dtype is bfloat16 or float16, got {self.frozen_dtype!r}.")
        if ALL_LINEAR in self.targets and len(self.targets) > 1:
            raise BadInput(f"targets is {ALL_LINEAR} or a list of names, got {', '.join(self.targets)}.")


@dataclass(frozen=True, kw_only=True)
class Adapted:
    """A model of which a part trains.

    Attributes:
        model: to call; the one that was given.
        training: which parameters train and which do not, by their names in `model`.
        notes: what was left out and why, for the log and the card.
        save: writes the adapter in peft's format into a folder; None where no adapter trains.
    """

    model: nn.Module
    training: Training
    notes: tuple[str, ...]
    save: Callable[[str | Path], Path] | None


def adapt(
    model: nn.Module,
    train: str,
    adapter: Adapter | None = None,
    *,
    reach: Callable[[nn.Module], Tensor] | None = None,
    base: str = "",
    seed: bytes | int = 0,
) -> Adapted:
    """Set `requires_grad` of every parameter of a model, after putting an adapter into it where one is asked for.

    `all`: everything. `heads`: what stands after the last blocks of each tower, and vocabulary heads. `last-K`: also
    the last K blocks of each tower. `bias`: all biases. `lora`, `dora`: low-rank products on frozen linear layers.

    Args:
        model: any module tree; LoRA and DoRA go into it in place.
        train: see above.
        adapter: settings of the last two; None: its defaults.
        reach: a tensor that the model makes of synthetic inputs: what it does not depend on is `unreached`, is frozen
            and carries no LoRA. None: nothing is known to be out of reach.
        base: what a saved adapter says of the model under it, such as the checkpoint that the user named.
        seed: 32 secret bytes, or a number; the adapter's initial values are a function of it and of the model alone.

    Raises:
        BadInput: `train` is none of these, the model does not have what it asks for, a setting is not used, or
            weights are quantised.
    """
    _check(model, train, adapter)
    settings = adapter or Adapter()
    if train in ADAPTERS:
        return _lora(model, train == "dora", settings, reach, base, seed)
    notes: tuple[str, ...] = ()
    if train == "all":
        chosen = {name for name, _ in model.named_parameters()}
    elif train == "heads":
        chosen = heads_of(model)
    elif train == "bias":
        chosen = biases_of(model)
    else:
        chosen, notes = last_blocks_of(model, int(train.removeprefix("last-")))
    return Adapted(model=model, training=_set(model, chosen, reach, train), notes=notes, save=None)


def _check(model: nn.Module, train: str, adapter: Adapter | None) -> None:
    if train not in ("all", "heads", "bias", *ADAPTERS) and not re.fullmatch(r"last-[1-9]\d*", train):
        raise BadInput(f"train is all, heads, last-K (such as last-2), bias, lora or dora, got {train!r}.")
    refuse_quantised(model)
    if train not in ADAPTERS and adapter not in (None, Adapter()):
        dtype = "; half precision is for frozen weights under an adapter" if adapter and adapter.frozen_dtype else ""
        raise BadInput(f"train={train} uses no adapter: leave its settings out{dtype}.")
    if train in ADAPTERS and is_adapted(model):
        raise BadInput("the model carries an adapter already: merge it (merge_and_unload) or start from its base.")


def _lora(model: nn.Module, dora: bool, settings: Adapter, reach: Any, base: str, seed: bytes | int) -> Adapted:
    kept = _kept(model, settings)
    unreached = unreached_by(model, reach) if reach else set()
    targets, notes = targets_of(model, tuple(settings.targets), kept, unreached)
    _cast(model, settings.frozen_dtype)
    with _seeded(seed):
        put_lora(
            model,
            targets,
            rank=settings.rank,
            alpha=settings.alpha,
            dropout=settings.dropout,
            dora=dora,
            kept=kept,
            base=base,
        )
    chosen = {name for name, _ in model.named_parameters() if _of_adapter(name)}
    training = _set(model, chosen, reach, "dora" if dora else "lora")
    said = f"{'DoRA' if dora else 'LoRA'} of rank {settings.rank} on {len(targets)} linear layers"
    return Adapted(model=model, training=training, notes=(said, *notes), save=partial(save_adapter, model))


def _of_adapter(name: str) -> bool:
    parts = name.split(".")
    return "modules_to_save" in parts or any(part.startswith("lora_") for part in parts)


def _kept(model: nn.Module, settings: Adapter) -> tuple[str, ...]:
    """Return the full names of the modules that train whole."""
    names = [name for name, _ in model.named_modules()]
    found: list[str] = []
    for kept in settings.modules_to_save:
        meant = [name for name in names if name == kept or name.endswith(f".{kept}")]
        if not meant:
            raise BadInput(f"modules_to_save: no module of a {type(model).__name__} is named {kept}.")
        found += meant
    half = settings.frozen_dtype or any(param.dtype in _DTYPES.values() for param in model.parameters())
    if found and half:
        raise BadInput(
            "modules_to_save beside frozen weights in half precision: a module that trains in float32 would be handed "
            "their results; leave modules_to_save out, or load the checkpoint in float32 without frozen_dtype."
        )
    return tuple(dict.fromkeys(found))


def _set(model: nn.Module, chosen: set[str], reach: Callable[[nn.Module], Tensor] | None, train: str) -> Training:
    out_of_reach = unreached_by(model, reach) if reach else set()
    if not chosen - out_of_reach:
        raise BadInput(f"train={train} leaves nothing to train: no gradient reaches {', '.join(sorted(chosen)[:5])}.")
    return set_training(model, chosen, out_of_reach)


@contextmanager
def _seeded(seed: bytes | int) -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(torch_seed(as_key(seed), "init", "adapter"))
        yield


def _cast(model: nn.Module, dtype: str | None) -> nn.Module:
    """Cast every parameter, and the statistics of BatchNorm, whose function takes one type alone."""
    if dtype is not None:
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.to(_DTYPES[dtype])
        for param in model.parameters():
            param.data = param.data.to(_DTYPES[dtype])
    return model
