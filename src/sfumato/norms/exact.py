"""Whether rows stay apart in a copy of the model of higher precision, where rounding hides less."""

import copy
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from sfumato.norms.measured import trainable
from sfumato.norms.plain import check_apart, poisoned
from sfumato.norms.pool import Alone, Assembly, Pool, Subject, alone_of

_LARGE = 50_000_000  # parameters of a model of which few batches are compared in higher precision
_LARGEST = 300_000_000  # parameters of a model that is copied in float64
_EXACT = {8: (1e-7, 1e-3), 4: (1e-5, 0.1)}  # the least bytes of a float anywhere -> tolerance, and floor of a loss


def compare_exactly(subject: Subject, pool: Pool, given: Sequence[Assembly], seed: int) -> bool:
    """Compare plain joint passes with rows alone in a copy of the model of higher precision, where there is one.

    All batches under low precision, for which nothing else sees a coupling below its tolerance; else an ordinary one
    and two with hostile rows (one under each of several settings of random numbers), other ones for another seed.
    Returns whether there was one.

    Raises:
        Refused: a loss or a gradient moves with other rows.
    """
    few = sum(p.numel() for p in subject.model.parameters()) > _LARGE
    chosen = list(given)[1:]
    if few or not subject.low:
        chosen, number = [], 1 if few or len(pool.settings) > 1 else 2
        for setting in pool.settings:
            own = [assembly for assembly in given[1:] if assembly.setting == setting]
            plain = [assembly for assembly in own if None not in assembly.alones]
            hostile = [assembly for assembly in own if None in assembly.alones]
            start = 2 * seed % max(len(hostile), 1)
            chosen += plain[:1] + (hostile + hostile)[start : start + number]
    return any(_compared(exact, pool, chosen) for exact in _exact_copies(subject))


def _exact_copies(subject: Subject) -> Iterator[Subject]:
    """Yield the subject in float64 and, under low precision, in float32; none where it cannot be copied."""
    dtypes = {p.dtype for p in subject.model.parameters() if p.is_floating_point()}
    if dtypes == {torch.float64}:
        return
    if sum(p.numel() for p in subject.model.parameters()) <= _LARGEST:
        yield from _copied(subject, torch.float64)
    if subject.low and dtypes == {torch.float32}:
        yield replace(subject, context=nullcontext)
    elif subject.low:
        yield from _copied(subject, torch.float32)


def _copied(subject: Subject, dtype: torch.dtype) -> Iterator[Subject]:
    try:
        model = copy.deepcopy(subject.model).to(dtype)
    except torch.OutOfMemoryError:
        raise
    except Exception:
        return
    parameters = trainable(model)
    if model is not subject.model and list(parameters) == list(subject.parameters):
        yield replace(subject, model=model, parameters=parameters, context=nullcontext)


def _compared(subject: Subject, pool: Pool, chosen: Sequence[Assembly]) -> bool:
    """Return whether batches could be compared in this precision.

    Raises:
        Refused: a loss or a gradient moves with other rows.
    """
    dtype = next(iter(subject.parameters.values())).dtype

    def cast(batch: Any) -> Any:
        return pytree.tree_map(lambda t: t.to(dtype) if isinstance(t, Tensor) and t.is_floating_point() else t, batch)

    def alone(setting: str, given: Alone) -> Alone | None:
        key = (setting, given.number)
        if key not in known:
            try:
                found, reached = alone_of(subject, setting, given.number, cast(given.row), pool.vector, [])
                known[key] = found if found.finite and reached else None
            except torch.OutOfMemoryError:
                raise
            except Exception:
                known[key] = None
        return known[key]

    known: dict[tuple[str, int], Alone | None] = {}
    start = pool.ordinary[0]
    with _Precision() as precision:
        if alone(next(iter(pool.settings)), start) is None:
            return False
    if precision.least not in _EXACT:
        return False
    tolerance, floor = _EXACT[precision.least] if dtype == torch.float64 else (1e-3, 1e-3)
    subject = replace(subject, exact=(tolerance, floor))
    for assembly in chosen:
        alones = [None if one is None else alone(assembly.setting, one) for one in assembly.alones]
        with poisoned(assembly):
            check_apart(subject, pool.vector, replace(assembly, batch=cast(assembly.batch), alones=alones))
    return True


class _Precision(TorchDispatchMode):
    """Notes the least number of bytes of a float among all results."""

    def __init__(self) -> None:
        super().__init__()
        self.least = 8

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        with torch._C.DisableTorchFunction():
            out = func(*args, **(kwargs or {}))
        floats = [t for t in pytree.tree_leaves(out) if isinstance(t, Tensor) and t.is_floating_point()]
        self.least = min([self.least, *(t.dtype.itemsize for t in floats)])
        return out
