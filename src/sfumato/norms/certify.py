"""Certification: on made-up rows at the shape that trains, the joint pass gives what each row gives alone.

What a record adds is defined by its row alone. The joint pass over N rows is certified for the paths that it took while
each of these held, for ordinary rows of many kinds, by themselves and among hostile ones at every place:

(a) the losses of the rows are those of each row alone;
(b) the sum that the tape measures, with a weight of its own for each row, is the weighted sum of the rows' own
    gradients, for every parameter, and no row's norm is below that of its own gradient;
(c) so the order of the rows, and what stands in other rows, does not matter.

Gradients alone come from one ordinary backward pass each, through no rule of the engine. They are kept as their norms
and their products with one fixed random vector r: for an error e of a sum, <e, r> has the standard deviation |e|.
"""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor

from sfumato.base import Refused
from sfumato.norms import made_up
from sfumato.norms.contract import per_example
from sfumato.norms.path import OffPath, Path
from sfumato.norms.pool import Alone, Assembly, Pool, Subject, assemblies, fixed, product
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


def certify(subject: Subject, pool: Pool, count: int, seed: int, known: Sequence[Path] = ()) -> tuple[Path, ...]:
    """Return the certified paths of `count` rows.

    Args:
        known: paths that were certified before: with them the search for the first one is left out.

    Raises:
        Refused: rows depend on each other, a parameter's use has no rule, or the rules do not give the gradient.
    """
    first, *others = assemblies(pool, count, seed)
    paths = list(known) or [_first_path(subject, first)]
    for assembly in (first, *others):
        with ExitStack() as stack:
            if assembly.poison is not None:
                stack.enter_context(made_up.Poison(*assembly.poison))
            _take(subject, pool, assembly, paths, first=assembly is first and not known, add=not known)
    return tuple(paths)


def _first_path(subject: Subject, assembly: Assembly) -> Path:
    pair = Pair(assembly.batch, assembly.longer, len(assembly.alones))
    path = find_path(subject.model, subject.loss_fn, pair, subject.parameters, subject.context)
    return _settled(subject, assembly, path)


def _settled(subject: Subject, assembly: Assembly, path: Path) -> Path:
    with _fixed(subject, assembly):
        return check_rows_apart(
            subject.model, subject.loss_fn, assembly.batch, subject.parameters, path, subject.context
        )[0]


def _take(subject: Subject, pool: Pool, assembly: Assembly, paths: list[Path], *, first: bool, add: bool) -> None:
    """Hold one batch to the paths; add the path that it takes, or take out one that does not hold for it."""
    try:
        fault = _fault(subject, pool, assembly, paths)
    except Exception as error:
        fault = error
    if fault is None:
        return
    _check_apart(subject, pool, assembly)
    if first:
        raise fault
    if not isinstance(fault, OffPath):  # the same calls, and other entries: what decides is not in the path
        paths[:] = [path for path in paths if _fault_or_off(subject, pool, assembly, path) is None]
    elif add and len(paths) < _MOST_PATHS and not assembly.poison:
        new = _new_path(subject, pool, assembly)
        paths.extend([] if new is None else [new])


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
    return not bool(((losses.double().cpu() - own).abs() <= subject.tolerance * (1e-3 + own.abs())).all())


def _wrong_sums(
    subject: Subject, sums: Mapping[str, Tensor], weights: Tensor, alones: Sequence[Alone], vector: Tensor
) -> list[str]:
    weights = weights.double()
    wanted = weights @ torch.stack([alone.products for alone in alones])
    sizes = torch.stack([alone.norms for alone in alones])
    scale = weights @ sizes  # by parameter
    floor = 0.01 * float(weights @ sizes.square().sum(1).sqrt())
    found = []
    for place, name in enumerate(subject.parameters):
        error = (product(sums[name], vector).double().cpu() - wanted[place]).abs()
        if not bool(error <= 4 * subject.tolerance * (scale[place] + floor)):
            found.append(name)
    return found


def _check_apart(subject: Subject, pool: Pool, assembly: Assembly) -> None:
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
        subject, sums, weights[compared], alones, pool.vector
    ):
        raise Refused(_COUPLED_BACKWARD)
