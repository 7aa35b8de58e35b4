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

from collections.abc import Sequence
from typing import Any

import torch

from sfumato.base import Refused
from sfumato.norms.exact import compare_exactly
from sfumato.norms.path import OffPath, Path
from sfumato.norms.plain import COUPLED, check_apart, losses_differ, poisoned, weights_of, wrong_sums
from sfumato.norms.pool import Assembly, Pool, Subject, assemblies, fixed
from sfumato.norms.recorder import Pair, find_path
from sfumato.norms.rows import check_rows_apart

_MOST_PATHS = 8
_SEVERAL = (
    "under mixed or half precision a row's path must not depend on its values: rows differ between being computed "
    "jointly and alone there, and one record would move others. Use float32, or take one path for all rows: no `if` on "
    "values, no packed tokens; transformers leaves out an attention mask of ones, unless it has four dimensions "
    "(mask[:, None, None, :].bool(); for a decoder with the causal part in it)."
)
_ONLY_LOW = (
    "under mixed or half precision rows are compared once more in a copy of the model in float32 or float64, for what "
    "couples them by less than half precision shows; here that copy cannot be made (copy.deepcopy), does not run, or "
    "computes in half precision by a cast of its own. Repair that, or use float32."
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
    left = False
    for assembly in (first, *others):
        with poisoned(assembly):
            fault = _take(subject, pool, assembly, paths, first=assembly is first and not known, add=not known)
        left |= assembly.poison is None and isinstance(fault, OffPath)
    if count > 1:
        compared = compare_exactly(subject, pool, (first, *others), seed)
        if subject.low and not compared:
            raise Refused(_ONLY_LOW)
        if subject.low and (left or len(paths) > 1 or len(pool.singles) > 1):
            raise Refused(_SEVERAL)
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


def _take(
    subject: Subject, pool: Pool, assembly: Assembly, paths: list[Path], *, first: bool, add: bool
) -> Exception | None:
    """Hold one batch to the paths; add the path that it takes, or take out one that does not hold for it.

    Returns what was wrong with the paths as they were.
    """
    try:
        fault = _fault(subject, pool, assembly, paths)
    except torch.OutOfMemoryError:  # of the machine, not of the path
        raise
    except Exception as error:
        fault = error
    if fault is None:
        return None
    check_apart(subject, pool.vector, assembly)
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
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        return error


def _new_path(subject: Subject, pool: Pool, assembly: Assembly) -> Path | None:
    """Return the path that a batch takes, or None where it cannot be measured: such batches go row by row."""
    try:
        pair = Pair(assembly.batch, assembly.longer, len(assembly.alones))
        found = find_path(subject.model, subject.loss_fn, pair, subject.parameters, subject.context, draws=False)
        found = _settled(subject, assembly, found)
        return found if _fault(subject, pool, assembly, [found]) is None else None
    except torch.OutOfMemoryError:
        raise
    except Exception:
        return None


def _fault(subject: Subject, pool: Pool, assembly: Assembly, paths: Sequence[Path]) -> Refused | None:
    """Return what the tape measures otherwise than the rows alone.

    Raises:
        OffPath: the batch takes none of the paths.
    """
    compared = assembly.compared
    weights = weights_of(compared)
    with _fixed(subject, assembly):
        losses, norms, sums = subject.measure(assembly.batch, paths, weights, compared)
    alones = [alone for alone in assembly.alones if alone is not None]
    if losses_differ(subject, losses[compared.to(losses.device)], alones):
        return Refused(COUPLED)
    own = torch.stack([alone.norms.square().sum().sqrt() for alone in alones])
    low = norms[compared.to(norms.device)].double().cpu() < own * (1 - subject.tolerance)
    wrong = wrong_sums(subject, sums, weights[compared], alones, pool.vector)
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        return Refused(
            f"the gradient of {', '.join(wrong[:3])}{more} is not what autograd gives: it is used in a way that no "
            "rule measures. Freeze it with requires_grad_(False), or write its use with linear, matmul, expand or "
            "elementwise functions, out of place."
        )
    return Refused("the norm of a row's gradient would be under-estimated.") if bool(low.any()) else None
