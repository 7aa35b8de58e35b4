"""The processes of a run: every rank computes a share of each draw, rank 0 keeps ledger and checkpoints.

Exchanged per logical step: the flat float64 sum (one all-reduce), and a few short decisions of rank 0. Losses never
gather across ranks.
"""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from sfumato.base import BadInput, Refused, SfumatoError, Stopped

_ERRORS: dict[str, type[SfumatoError]] = {"Refused": Refused, "Stopped": Stopped}


@dataclass(frozen=True, kw_only=True)
class World:
    """Which of how many processes this is. `World()` is a run on its own."""

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def first(self) -> bool:
        """Whether this process keeps the ledger."""
        return self.rank == 0

    def add_up(self, flat_sum: Tensor) -> None:
        """Add `flat_sum` up over all ranks, in place; every rank holds the same bits afterwards."""
        if self.size > 1:
            with _together():
                dist.all_reduce(flat_sum)

    def gather(self, rows: Tensor) -> tuple[Tensor, int]:
        """Return the rows (n, k) of all ranks, one rank after the other, and where this rank's begin.

        A rank may have none; its k is then taken from the others. All ranks get the same bits.
        """
        if self.size == 1:
            return rows, 0
        with _together():
            return self._gather(rows)

    def _gather(self, rows: Tensor) -> tuple[Tensor, int]:
        shape = torch.tensor(rows.shape, device=rows.device)
        shapes = [torch.zeros_like(shape) for _ in range(self.size)]
        dist.all_gather(shapes, shape)
        counts = [int(count) for count, _ in shapes]
        width = max(int(width) for _, width in shapes)
        padded = rows.new_zeros(max(counts), width)
        padded[: len(rows), : rows.shape[1]] = rows
        gathered = [torch.zeros_like(padded) for _ in range(self.size)]
        dist.all_gather(gathered, padded)
        found = torch.cat([part[:count] for part, count in zip(gathered, counts, strict=True)])
        return found, sum(counts[: self.rank])

    def decide(self, decision_fn: Callable[[], Any]) -> Any:
        """Return on every rank what `decision_fn` returned on rank 0 (JSON values), or raise there what it raised."""
        if self.size == 1:
            return decision_fn()
        outcome = _outcome(decision_fn) if self.first else None
        with _together():
            kind, value = self._from_first(outcome)
        if kind == "value":
            return value
        raise _ERRORS.get(kind, BadInput)(value)

    def _from_first(self, message: Any) -> Any:
        raw = json.dumps(message).encode()
        length = torch.tensor([len(raw)], device=self.device)
        dist.broadcast(length, 0)
        buffer = torch.empty(int(length), dtype=torch.uint8, device=self.device)
        if self.first:
            buffer.copy_(torch.frombuffer(bytearray(raw), dtype=torch.uint8))
        dist.broadcast(buffer, 0)
        return json.loads(bytes(buffer.cpu().numpy()))


def _outcome(decision_fn: Callable[[], Any]) -> tuple[str, Any]:
    try:
        return "value", decision_fn()
    except SfumatoError as error:
        return type(error).__name__, str(error)
    except OSError as error:  # else the other ranks would wait for ever
        return "Stopped", f"{error.filename or 'a file of the run'}: {error.strerror or 'it cannot be written'}."


@contextmanager
def _together() -> Iterator[None]:
    """Raise Stopped where processes of the run do not come together: one of them was killed, or ended by an error."""
    try:
        yield
    except RuntimeError:  # of torch.distributed, whose messages name addresses and nothing that helps
        raise Stopped(
            "another process of this run was killed or has ended with an error of its own, so this one stops too. "
            "Nothing is lost: the same command resumes."
        ) from None


def join_world(device: torch.device) -> World:
    """Return this process's place among those that torchrun started (gloo on CPU, NCCL on CUDA), or `World()`.

    Raises:
        BadInput: the environment names several processes but the model is on a device without a backend.
    """
    if not dist.is_available() or not (dist.is_initialized() or int(os.environ.get("WORLD_SIZE", "1")) > 1):
        return World(device=device)
    if not dist.is_initialized():
        backends = {"cpu": "gloo", "cuda": "nccl"}
        if device.type not in backends:
            raise BadInput(f"several processes run on cpu (gloo) or cuda (nccl), the model is on {device.type}.")
        dist.init_process_group(backends[device.type])
    return World(rank=dist.get_rank(), size=dist.get_world_size(), device=device)
