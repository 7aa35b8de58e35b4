"""Certification: on made-up rows at the shape that trains, the joint pass gives what each row gives alone.

What a record adds is defined by its row alone. The joint pass over N rows is certified for the paths that it took while
each of these held, for ordinary rows of many kinds, by themselves and among hostile ones at every place:

(a) the losses of the rows are those of each row alone;
(b) the sum that the tape measures, with a weight of its own for each row, is the weighted sum of the rows' own
    gradients, for every parameter, and no row's norm is below that of its own gradient;
(c) so the order of the rows, and what stands in other rows, does not matter.

Gradients alone come from one ordinary backward pass each, through no rule of the engine. They are kept as their norms
and their products with one fixed random vector r: for an error e of a sum, <e, r> has the standard deviation |e|.

What the tape measures can be held to the precision of training alone. A coupling below it, times the number of rows,
may still be large: so some batches are compared once more in a copy of the model of higher precision, by a plain joint
pass. Under low precision the joint pass and a row alone differ by more than rounding of a sum would explain, and alike
for alike rows; what one record's values decide may not change which of them is computed, so one path must be all.
"""

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from sfumato.base import Refused
from sfumato.norms import made_up
from sfumato.norms.contract import per_example
from sfumato.norms.measured import trainable
from sfumato.norms.path import OffPath, Path
from sfumato.norms.pool import Alone, Assembly, Pool, Subject, alone_of, assemblies, fixed, product
from sfumato.norms.recorder import Pair, find_path
from sfumato.norms.rows import check_rows_apart

_MOST_PATHS = 8
_COUPLED = (
    "the loss of a row changes when another row's input changes: rows depend on each other (a batch statistic, hard "
    "negatives, a queue), so clipping per example bounds nothing."
)
_COUPLED_BACKWARD = (
    "the gradient of a row changes when another row's input changes, though its loss does not: rows depend on each "
    "other in the backward pass (a hook, a custom autograd function), so clipping per example bounds nothing."
)
_SEVERAL = (
    "under mixed or half precision a row's path must not depend on its values: rows differ between being computed "
    "jointly and alone there, and one record would move others. Use float32, or take one path for all rows: no `if` on "
    "values, no packed tokens; transformers leaves out an attention mask of ones, unless it has four dimensions "
    "(mask[:, None, None, :].bool(); for a decoder with the causal part in it)."
)
_LARGE = 50_000_000  # parameters of a model of which few batches are compared in higher precision
_LARGEST = 300_000_000  # parameters of a model that is copied in float64
_EXACT = {8: (1e-7, 1e-3), 4: (1e-5, 0.1)}  # the least bytes of a float anywhere -> tolerance, and floor of a loss


def certify(subject: Subject, pool: Pool, count: int, seed: int, known: Sequence[Path] = ()) -> tuple[Path, ...]:
    """Return the certified paths of `count` rows.

    Args:
        known: paths that were certified before: with them the search for the first one is left out.

    Raises:
        Refused: rows depend on each other, a parameter's use has no rule, or the rules do not give the gradient.
    """
    first, *others = assemblies(pool, count, seed)
    paths = list(known) or [_first_path(subject, first)]
    left = False
    for assembly in (first, *others):
        with _poisoned(assembly):
            fault = _take(subject, pool, assembly, paths, first=assembly is first and not known, add=not known)
        left |= assembly.poison is None and isinstance(fault, OffPath)
    if count > 1:
        _compare_exactly(subject, pool, (first, *others), seed)
        if subject.low and (left or len(paths) > 1 or len(pool.singles) > 1):
            raise Refused(_SEVERAL)
    return tuple(paths)


def _poisoned(assembly: Assembly) -> Any:
    return nullcontext() if assembly.poison is None else made_up.Poison(*assembly.poison)


def _first_path(subject: Subject, assembly: Assembly) -> Path:
    pair = Pair(assembly.batch, assembly.longer, len(assembly.alones))
    path = find_path(subject.model, subject.loss_fn, pair, subject.parameters, subject.context)
    return _settled(subject, assembly, path)


def _settled(subject: Subject, assembly: Assembly, path: Path) -> Path:
    with _fixed(subject, assembly):
        return check_rows_apart(
            subject.model, subject.loss_fn, assembly.batch, subject.parameters, path, subject.context
        )[0]


def _take(
    subject: Subject, pool: Pool, assembly: Assembly, paths: list[Path], *, first: bool, add: bool
) -> Exception | None:
    """Hold one batch to the paths; add the path that it takes, or take out one that does not hold for it.

    Returns what was wrong with the paths as they were.
    """
    try:
        fault = _fault(subject, pool, assembly, paths)
    except Exception as error:
        fault = error
    if fault is None:
        return None
    _check_apart(subject, pool.vector, assembly)
    if first:
        raise fault
    if not isinstance(fault, OffPath):  # the same calls, and other entries: what decides is not in the path
        paths[:] = [path for path in paths if _fault_or_off(subject, pool, assembly, path) is None]
    elif add and len(paths) < _MOST_PATHS and not assembly.poison:
        new = _new_path(subject, pool, assembly)
        paths.extend([] if new is None else [new])
    return fault


def _fixed(subject: Subject, assembly: Assembly) -> Any:
    return fixed(subject, assembly.setting, assembly.numbers)


def _fault_or_off(subject: Subject, pool: Pool, assembly: Assembly, path: Path) -> Exception | None:
    """Return what is wrong with one path for a batch; nothing where the batch does not take it."""
    try:
        return _fault(subject, pool, assembly, [path])
    except OffPath:
        return None
    except Exception as error:
        return error


def _new_path(subject: Subject, pool: Pool, assembly: Assembly) -> Path | None:
    """Return the path that a batch takes, or None where it cannot be measured: such batches go row by row."""
    try:
        pair = Pair(assembly.batch, assembly.longer, len(assembly.alones))
        found = find_path(subject.model, subject.loss_fn, pair, subject.parameters, subject.context, draws=False)
        found = _settled(subject, assembly, found)
        return found if _fault(subject, pool, assembly, [found]) is None else None
    except Exception:
        return None


def _fault(subject: Subject, pool: Pool, assembly: Assembly, paths: Sequence[Path]) -> Refused | None:
    """Return what the tape measures otherwise than the rows alone.

    Raises:
        OffPath: the batch takes none of the paths.
    """
    compared = assembly.compared
    weights = _weights(compared)
    with _fixed(subject, assembly):
        losses, norms, sums = subject.measure(assembly.batch, paths, weights, compared)
    alones = [alone for alone in assembly.alones if alone is not None]
    if _losses_differ(subject, losses[compared.to(losses.device)], alones):
        return Refused(_COUPLED)
    own = torch.stack([alone.norms.square().sum().sqrt() for alone in alones])
    low = norms[compared.to(norms.device)].double().cpu() < own * (1 - subject.tolerance)
    wrong = _wrong_sums(subject, sums, weights[compared], alones, pool.vector)
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        return Refused(
            f"the gradient of {', '.join(wrong[:3])}{more} is not what autograd gives: it is used in a way that no "
            "rule measures. Freeze it with requires_grad_(False), or write its use with linear, matmul, expand or "
            "elementwise functions, out of place."
        )
    return Refused("the norm of a row's gradient would be under-estimated.") if bool(low.any()) else None


def _weights(compared: Tensor) -> Tensor:
    """Return a weight of its own for each row, 0 for those that are not compared."""
    return torch.where(compared, 0.5 + torch.linspace(0, 1, len(compared)).cos(), 0.0)


def _losses_differ(subject: Subject, losses: Tensor, alones: Sequence[Alone]) -> bool:
    own = torch.stack([alone.loss.cpu() for alone in alones])
    floor = 1e-3 if subject.exact is None else subject.exact[1]
    return not bool(((losses.double().cpu() - own).abs() <= subject.tolerance * (floor + own.abs())).all())


def _wrong_sums(
    subject: Subject, sums: Mapping[str, Tensor], weights: Tensor, alones: Sequence[Alone], vector: Tensor
) -> list[str]:
    weights = weights.double()
    wanted = weights @ torch.stack([alone.products for alone in alones])
    sizes = torch.stack([alone.norms for alone in alones])
    scale = weights @ sizes  # by parameter
    rounded = subject.low and subject.exact is None  # what cancels in a bias is all rounding: see `_certify` in probe
    floor = (1.0 if rounded else 0.01) * float(weights @ sizes.square().sum(1).sqrt())
    found = []
    for place, name in enumerate(subject.parameters):
        error = (product(sums[name], vector).double().cpu() - wanted[place]).abs()
        if not bool(error <= 4 * subject.tolerance * (scale[place] + floor)):
            found.append(name)
    return found


def _check_apart(subject: Subject, vector: Tensor, assembly: Assembly) -> None:
    """Compare a plain joint pass with the rows alone.

    Raises:
        Refused: a loss or a gradient moves with other rows. Nothing is said of a batch that the model does not take.
    """
    compared = assembly.compared
    weights = _weights(compared)
    alones = [alone for alone in assembly.alones if alone is not None]
    try:
        with _fixed(subject, assembly):
            with torch.enable_grad(), subject.context():
                losses = per_example(subject.loss_fn(subject.model, assembly.batch), len(compared))
            differ = _losses_differ(subject, losses.detach()[compared.to(losses.device)], alones)
            if not differ:
                chosen = losses[compared.to(losses.device)]
                grads = torch.autograd.grad(
                    chosen, list(subject.parameters.values()), weights[compared].to(chosen), allow_unused=True
                )
    except Exception:
        return
    if differ:
        raise Refused(_COUPLED)
    sums = {
        name: torch.zeros_like(parameter) if grad is None else grad
        for (name, parameter), grad in zip(subject.parameters.items(), grads, strict=True)
    }
    if all(bool(torch.isfinite(grad).all()) for grad in sums.values()) and _wrong_sums(
        subject, sums, weights[compared], alones, vector
    ):
        raise Refused(_COUPLED_BACKWARD)


# ---------------------------------------------------------------- in higher precision


def _compare_exactly(subject: Subject, pool: Pool, given: Sequence[Assembly], seed: int) -> None:
    """Compare plain joint passes with rows alone in a copy of the model of higher precision, where there is one.

    All batches under low precision, for which nothing else sees a coupling below its tolerance; else an ordinary one
    and two with hostile rows (one under each of several settings of random numbers), other ones for another seed.

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
    for exact in _exact_copies(subject):
        if _compared(exact, pool, chosen):
            return


def _exact_copies(subject: Subject) -> Iterator[Subject]:
    """Yield the subject in float64 and, under low precision, in float32; none where it cannot be copied."""
    dtypes = {p.dtype for p in subject.model.parameters() if p.is_floating_point()}
    if torch.float64 in dtypes:
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
        with _poisoned(assembly):
            _check_apart(subject, pool.vector, replace(assembly, batch=cast(assembly.batch), alones=alones))
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
