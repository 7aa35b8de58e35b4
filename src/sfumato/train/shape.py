"""Micro-batches of one shape for the whole run, on the model's device."""

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
        return MicroBatch(batch=moved, valid=micro_batch.valid.to(self._device), failures=micro_batch.failures)
