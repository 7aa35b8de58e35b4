"""Micro-batches of one shape for the whole run, on the model's device."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from sfumato.base import BadInput
from sfumato.mechanisms import MicroBatch


class ConstantShape:
    """Remembers the structure of the first micro-batch and refuses another.

    The length of the longest row of a micro-batch is a fact about private records, and moves other rows' low-precision
    gradients. The message names no sizes for the same reason.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._seen: Any = None

    def take(self, micro_batch: MicroBatch) -> MicroBatch:
        """Return the micro-batch on the device; one without a readable row is passed through.

        Raises:
            BadInput: its keys, types or shapes are not those of the first one.
        """
        if micro_batch.batch is None:
            return micro_batch
        leaves, structure = pytree.tree_flatten(micro_batch.batch)
        found = (structure, [(x.dtype, x.shape) if isinstance(x, Tensor) else None for x in leaves])
        if self._seen is None:
            self._seen = found
        elif found != self._seen:
            raise BadInput(
                "a micro-batch has another structure or shape than the first one: pad every row to one public length "
                "(not to the longest of the micro-batch), and keep the keys and types the same."
            )
        moved = pytree.tree_map(lambda x: x.to(self._device) if isinstance(x, Tensor) else x, micro_batch.batch)
        named = {name: getattr(micro_batch, name) for name in ("valid", "groups", "records")}
        placed = {name: None if value is None else value.to(self._device) for name, value in named.items()}
        return replace(micro_batch, batch=moved, **placed)


class Prepared:
    """The micro-batches of a step in the run's shape and on its device, as often as they are asked for.

    Args:
        micro_batches: iterable more than once.
        shape: of the run.
        failures: gets the kinds of failures, of the first time alone.
    """

    def __init__(self, micro_batches: Iterable[MicroBatch], shape: ConstantShape, failures: Counter[str]) -> None:
        self._micro_batches, self._shape, self._failures = micro_batches, shape, failures
        self._first = True

    def __iter__(self) -> Iterator[MicroBatch]:
        first, self._first = self._first, False
        for micro_batch in self._micro_batches:
            if first:
                self._failures.update(micro_batch.failures)
            yield self._shape.take(micro_batch)
