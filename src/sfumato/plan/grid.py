"""Epsilon over a grid of batch sizes and noise multipliers: rows for a table and a plot."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from sfumato.base import Refused
from sfumato.plan.explain import epochs
from sfumato.plan.plan import Plan


def epsilon_grid(plan: Plan, batch_sizes: Sequence[float], noise_multipliers: Sequence[float]) -> list[dict[str, Any]]:
    """Return one row for each (batch size, noise multiplier), all else as in `plan`.

    Each row has `batch_size`, `noise_multiplier`, `noise_per_coordinate` (std of the noise on the mean gradient),
    `epochs`, `epsilon_pld` and `epsilon_rdp`; an epsilon is None where the accountant does not support the sampler, or
    where the noise is too small for any finite one.

    Raises:
        Refused: the plan is a simulation or its unit is not proved.
    """
    plan.check_proved()
    rows = []
    for batch_size in batch_sizes:
        for noise_multiplier in noise_multipliers:
            point = replace(plan.with_batch_size(batch_size), noise_multiplier=noise_multiplier)
            rows.append(
                {
                    "batch_size": batch_size,
                    "noise_multiplier": noise_multiplier,
                    "noise_per_coordinate": point.noise_std / point.divisor,
                    "epochs": epochs(point),
                    "epsilon_pld": _or_none(point.epsilon_pld),
                    "epsilon_rdp": _or_none(point.epsilon_rdp),
                }
            )
    return rows


def _or_none(epsilon_fn: Any) -> float | None:
    try:
        return epsilon_fn()
    except Refused:
        return None
