"""The trade-off of batch and group clipping in the linear setting: real plans, predicted and simulated errors."""

import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any

from sfumato import report, theory
from sfumato.base import BadInput, limits, seeds
from sfumato.base.ranges import Real, Whole, check_ranges, flag
from sfumato.plan import Group, Plan
from sfumato.sampling import Poisson

log = logging.getLogger(__name__)

Rows = list[dict[str, Any]]
_MOST_NUMBERS = 4 * 10**9
_SECONDS_OF_A_NUMBER = 2e-9  # of a step: a row times its width, on one core
_MOST_SECONDS = 12 * 3600
AXES = ("epsilon", "num_records", "dim", "rank", "signal")
_WORDS = {
    "epsilon": "epsilon",
    "num_records": "number of records n",
    "dim": "width of each view d",
    "rank": "rank r",
    "signal": "weakest signal over noise variance",
}
_SHORT = {"epsilon": "epsilon", "num_records": "n", "dim": "d", "rank": "r", "signal": "snr"}


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """Which points: the first values together are the base, and each further value changes the base in one place.

    Attributes:
        epsilon, num_records, dim, rank, signal: one or more values each; dim is the width of both views, signal the
            smallest singular value over the variance of the noise in one coordinate.
        batch_size: expected records of a step.
        steps: T.
        num_groups: m of group clipping; beside it, batch clipping has one group.
        clip_norm: c.
        start_angle: radians between the start's directions and the signal's.
        repeats: independent runs of each point.
        seed: >= 0; everything random is derived from it. Public: the data are synthetic.

    Raises:
        BadInput: a list is empty or repeats a value, or a number is out of its range.
    """

    epsilon: Annotated[tuple[float, ...], limits.EPSILON]
    num_records: Annotated[tuple[int, ...], Whole(2, 10**9)]
    dim: Annotated[tuple[int, ...], Whole(2, 10_000)]
    rank: Annotated[tuple[int, ...], Whole(1, 5_000)]
    signal: Annotated[tuple[float, ...], Real(1e-6, 1e6)]
    batch_size: Annotated[float, Real(0.0, 1e9, above=True)]
    steps: Annotated[int, limits.STEPS]
    num_groups: Annotated[int, limits.GROUPS]
    clip_norm: Annotated[float, limits.CLIP_NORM]
    start_angle: Annotated[float, Real(0.0, math.pi / 2, below=True)]
    repeats: Annotated[int, Whole(1, 10_000)]
    seed: Annotated[int, limits.SEED]

    def __post_init__(self) -> None:
        check_ranges(self)
        for axis in AXES:
            values = getattr(self, axis)
            if not values or len(set(values)) < len(values):
                raise BadInput(f"{flag(axis)} needs one or more different values, got {list(values)}.")
        self._check_work()

    def _check_work(self) -> None:
        """Raise BadInput, with the estimate, for a sweep that does not fit into memory or does not end."""
        points = list(self.points)
        numbers = 2 * self.repeats * max(point["num_records"] * point["dim"] for point in points)
        if numbers > _MOST_NUMBERS:
            raise BadInput(
                f"--num-records, --dim and --repeats make {8 * numbers / 1e9:,.0f} GB of data at once, more than "
                f"{8 * _MOST_NUMBERS / 1e9:,.0f} GB: choose smaller ones."
            )
        rows = 2 * self.steps * self.repeats * (self.batch_size + self.num_groups)
        seconds = rows * sum(point["dim"] for point in points) * _SECONDS_OF_A_NUMBER
        if seconds > _MOST_SECONDS:
            raise BadInput(
                f"{len(points)} points of --steps {self.steps:,}, --batch-size {self.batch_size:g}, --num-groups "
                f"{self.num_groups:,} and --repeats {self.repeats:,} take about {seconds / 3600:,.0f} hours: "
                "choose smaller ones."
            )

    @property
    def points(self) -> Iterator[dict[str, Any]]:
        """The base, then what differs from it in one axis, as axis -> value."""
        base = {axis: getattr(self, axis)[0] for axis in AXES}
        yield base
        for axis in AXES:
            yield from ({**base, axis: value} for value in getattr(self, axis)[1:])


def linear_clip(sweep: Sweep) -> Rows:
    """Return a row for each point and each clipping: plan, predicted terms, simulated error.

    The noise is calibrated by the plan itself; it is the same for both clippings, whose distances are both 2c. The
    learning rate is that of least predicted error among `theory.LEARNING_RATES`, so that no data is looked at.

    Raises:
        BadInput: a point is impossible; Refused: no noise reaches an epsilon. Both before the first simulation.
    """
    data = [(point, _data(point)) for point in sweep.points]  # what is impossible is said before the calibrations
    log.info("calibrating the noise of %d points", len(data))
    runs = [(point, run) for point, one in data for run in _runs(sweep, point, one)]
    chosen = [(point, theory.with_best_learning_rate(run)) for point, run in runs]
    log.info("simulating %d runs of %d steps, %d times each", len(chosen), sweep.steps, sweep.repeats)
    return [_row(sweep, point, run) for point, run in chosen]


def _data(point: dict[str, Any]) -> theory.Spiked:
    width, rank = point["dim"], point["rank"]
    if width < 2 * rank:
        raise BadInput(f"dim {width} is too small for rank {rank}: it has to be at least twice as large.")
    return theory.Spiked(d1=width, d2=width, singular_values=theory.spaced(rank), noise=point["signal"] ** -0.5)


def _runs(sweep: Sweep, point: dict[str, Any], data: theory.Spiked) -> Iterator[theory.LinearClip]:
    whole = _plan(point["num_records"], sweep.batch_size, sweep.steps, sweep.clip_norm, point["epsilon"])
    for groups in dict.fromkeys((1, sweep.num_groups)):
        # One Gaussian, noise over presence, is charged for both: the calibrated plan keeps its epsilon.
        plan = replace(whole, unit=Group(clip_norm=sweep.clip_norm, num_groups=groups))
        yield theory.LinearClip(data=data, plan=plan, learning_rate=1.0, start_angle=sweep.start_angle)


@lru_cache(maxsize=64)  # a calibration takes seconds; points that differ in the data share it
def _plan(num_records: int, batch_size: float, steps: int, clip_norm: float, epsilon: float) -> Plan:
    sampler = Poisson(num_records=num_records, expected_batch_size=batch_size)
    unit = Group(clip_norm=clip_norm, num_groups=1)
    return Plan(unit=unit, sampler=sampler, steps=steps).calibrated(epsilon=epsilon)


def _row(sweep: Sweep, point: dict[str, Any], run: theory.LinearClip) -> dict[str, Any]:
    terms = theory.predict(run)
    key = seeds.derive(bytes(seeds.SEED_BYTES), "linear-clip", sweep.seed)
    course = theory.simulate(run, key, repeats=sweep.repeats, every=run.plan.steps)
    return {
        **point,
        "clipping": "batch" if run.unit.num_groups == 1 else "group",
        "num_groups": run.unit.num_groups,
        "delta": run.plan.delta,
        "noise_multiplier": run.plan.noise_multiplier,
        "noise_std": run.noise_std,
        "learning_rate": run.learning_rate,
        **{field.name: getattr(terms, field.name) for field in fields(terms) if field.name != "valid"},
        "predicted": terms.sin_theta,
        "simulated": course.final,
        "simulated_error": course.final_error if sweep.repeats > 1 else None,
    }


def shown(rows: Rows) -> Rows:
    """Return rows for a terminal of 80 columns: each point by what it changes, and three decimals."""
    base = rows[0]
    names = {"optimisation": "optim", "privacy": "priv", "sampling": "sampl", "statistical": "stat"}
    names |= {"predicted": "pred", "simulated": "simul"}
    return [
        {"point": _point(row, base), "clip": row["clipping"], "eta": float(f"{row['learning_rate']:.3g}")}
        | {short: f"{row[name]:.3f}" for name, short in names.items()}
        for row in rows
    ]


def base_in_words(rows: Rows) -> str:
    """Return what the rows have in common unless they say otherwise."""
    return ", ".join(f"{_SHORT[axis]} {rows[0][axis]:,g}" for axis in AXES)


def _point(row: dict[str, Any], base: dict[str, Any]) -> str:
    changed = [f"{_SHORT[axis]} {row[axis]:,g}" for axis in AXES if row[axis] != base[axis]]
    return ", ".join(changed) or "base"


def plots(rows: Rows, axes: Sequence[str], folder: Path) -> list[Path]:
    """Draw sin Theta over each of `axes` in which rows differ, simulated and predicted, batch and group; the paths."""
    base = {axis: rows[0][axis] for axis in AXES}
    paths = []
    for axis in axes:
        own = [row for row in rows if all(row[other] == base[other] for other in AXES if other != axis)]
        if len({row[axis] for row in own}) > 1:
            paths.append(_plot(sorted(own, key=lambda row: row[axis]), axis, folder / f"{axis.replace('_', '-')}.svg"))
    return paths


def _plot(rows: Rows, axis: str, path: Path) -> Path:
    series = []
    for clipping in dict.fromkeys(row["clipping"] for row in rows):
        own = [row for row in rows if row["clipping"] == clipping]
        x = [row[axis] for row in own]
        spread = None if own[0]["simulated_error"] is None else [row["simulated_error"] for row in own]
        name = f"{clipping}, "
        series.append(
            report.plots.Series(name=name + "simulated", x=x, y=[row["simulated"] for row in own], spread=spread)
        )
        series.append(
            report.plots.Series(name=name + "predicted", x=x, y=[row["predicted"] for row in own], dashed=True)
        )
    chart = report.plots.Chart(
        title="Linear dual encoder under clipping and noise",
        x_label=_WORDS[axis],
        y_label="||sin Theta||_F",
        description=f"Distance of the learned subspace from the signal's over {_WORDS[axis]}, for batch and group "
        "clipping, simulated and predicted.",
        x_log=True,
        y_from_zero=True,
    )
    return report.plots.save(chart, series, path)
