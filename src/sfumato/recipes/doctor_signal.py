"""Signal and noise of the first step: the mean clipped gradient on made-up or public rows beside the plan's noise.

P trainable parameters, B expected rows of a step, T steps, C the clip norm.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sfumato import mechanisms, norms
from sfumato.base import BadInput
from sfumato.mechanisms import MicroBatch
from sfumato.mechanisms.example import clip_rows
from sfumato.mechanisms.group import clip_groups_of
from sfumato.mechanisms.group_loss import group_loss
from sfumato.plan import Plan
from sfumato.recipes.doctor_case import Case
from sfumato.recipes.doctor_data import Rows
from sfumato.recipes.doctor_measure import micro_batch

HOPELESS = 1.0
"""Over T steps a gradient that never turns adds up to T g, the noise to sqrt(T) times its own length: with
R = SNR sqrt(T), R^2 / (1 + R^2) of the squared way that the weights go is signal. Below 1 that is less than half, even
for a gradient that never turns, and gradients turn."""
DOUBTFUL = 3.0
"""Below 3 less than nine tenths of the squared way is signal."""
_AT_ONCE = 4  # rows; of groups two


@dataclass(frozen=True, kw_only=True)
class Gradient:
    """The first step's gradient.

    Attributes:
        num_units: how many rows or groups it was measured on.
        mean_norm: norm of the mean clipped gradient, without the part that is there only because of the few rows.
        by_chance: what `mean_norm` may be (one standard error) where there is no gradient at all.
        clipped: share of the units whose gradient was longer than C.
        clip_norm: C.
        median_norm: of the gradients before they are clipped.
        inputs: "made-up" or the public set in words.
        real: whether these rows decide: words, labels and answers belong to their pictures.
    """

    num_units: int
    mean_norm: float
    by_chance: float
    clipped: float
    clip_norm: float
    median_norm: float
    inputs: str
    real: bool

    @property
    def tells(self) -> bool:
        """Whether `mean_norm` is a measurement: on real rows, and beyond its error."""
        return self.real and self.mean_norm > self.by_chance


def first_gradient(rows: Rows, batches: list[MicroBatch], clip_norm: float) -> Gradient:
    """Measure the mean clipped gradient at the initial weights.

    With S = sum of n clipped gradients v_i, the squared norm of their mean in the population is estimated without bias
    by (|S|^2 - sum |v_i|^2) / (n (n - 1)), the mean product of two of them: |S / n| alone would count the scatter of n
    rows as signal. Its error comes from how much the products differ between the micro-batches.

    Raises:
        Refused: something is not measured.
        BadInput: fewer than two micro-batches with finite gradients.
    """
    case, computation, factor = rows.case, rows.case.computation, mechanisms.flat(clip_norm)
    measured: Any = None
    total: dict[str, Tensor] = {}
    lengths: list[Tensor] = []
    products: list[float] = []
    for batch in batches:
        measured = measured or computation.measure(batch)
        found = _clipped(case, computation, batch, measured, factor)
        used = found.factors > 0
        lengths.append(found.norms[used].double())
        before = _product(total, found.grads)
        for name, grad in found.grads.items():
            total[name] = total[name].add_(grad) if name in total else grad.double()
        own = (found.factors[used].double() * lengths[-1]).square().sum()
        products.append(2 * before + _product(found.grads, found.grads) - float(own))
    mean, error = _mean_product(products, [len(some) for some in lengths])
    norms_of = torch.cat(lengths)
    return Gradient(
        num_units=len(norms_of),
        mean_norm=math.sqrt(max(mean, 0.0)),
        by_chance=math.sqrt(error),
        clipped=float((factor(norms_of) < 1).double().mean()),
        clip_norm=clip_norm,
        median_norm=float(norms_of.median()),
        inputs=rows.inputs,
        real=rows.real,
    )


def _product(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    return sum(float((one[name].double() * grad).sum()) for name, grad in other.items() if name in one)


def _mean_product(products: list[float], units: list[int]) -> tuple[float, float]:
    """Return the mean of <v_i, v_j> over i != j and its standard error.

    Micro-batch c adds the products of its units with each other and with all before, w_c of them, d_c in sum. Where the
    mean gradient is 0 the d_c are uncorrelated, of variance proportional to w_c: with d = sum d_c, w = sum w_c the
    variance of d / w is estimated without bias by sum (d_c - w_c d / w)^2 / (w^2 - sum w_c^2).

    Raises:
        BadInput: all units are in one micro-batch.
    """
    weights = [n * (n - 1) + 2 * n * sum(units[:place]) for place, n in enumerate(units)]
    whole, left = sum(weights), sum(weights) ** 2 - sum(weight**2 for weight in weights)
    if left <= 0:
        raise BadInput("the signal needs two micro-batches of rows or groups with a finite gradient.")
    mean = sum(products) / whole
    squares = sum((found - weight * mean) ** 2 for found, weight in zip(products, weights, strict=True))
    return mean, math.sqrt(squares / left)


def chunks(rows: Rows, group_size: int) -> list[MicroBatch]:
    """Return the rows as micro-batches that differ from each other, of two whole groups where the unit is the group."""
    whole = micro_batch(rows.case, rows.number, group_size)
    at_once = 2 * group_size if rows.case.unit == "group" else _AT_ONCE
    return [_part(whole, start, start + at_once) for start in range(0, rows.number, at_once)]


def _part(whole: MicroBatch, start: int, stop: int) -> MicroBatch:
    def cut(value: Any) -> Any:
        return value[start:stop] if isinstance(value, Tensor) else value

    return MicroBatch(
        batch={name: cut(value) for name, value in whole.batch.items()},
        valid=cut(whole.valid),
        groups=cut(whole.groups),
        records=cut(whole.records),
    )


def _clipped(case: Case, computation: Any, batch: MicroBatch, measured: Any, factor: Any) -> norms.ClippedSum:
    if case.unit == "group":
        whole = clip_groups_of(group_loss(computation), computation, batch, measured, factor, lambda place: None)
        if whole.nonfinite:
            raise BadInput("the loss of some of these rows is not finite.")
        return whole.parted.result
    return clip_rows(computation, batch, measured, factor, lambda place: None).result


@dataclass(frozen=True, kw_only=True)
class Signal:
    """The first step's signal beside its noise.

    Attributes:
        gradient: what was measured.
        noise_norm: expected norm of the noise on the mean, noise_std / divisor * sqrt(P).
        steps: T.
        largest: the plan's largest possible ratio of signal to noise, where all gradients agree and are clipped.
    """

    gradient: Gradient
    noise_norm: float
    steps: int
    largest: float

    @property
    def ratio(self) -> float:
        """Norm of the mean clipped gradient over that of its noise, one step."""
        return self.gradient.mean_norm / self.noise_norm if self.noise_norm else math.inf

    @property
    def over_all(self) -> float:
        """R: the same over all steps for a gradient that never turns."""
        return self.ratio * math.sqrt(self.steps)

    @property
    def largest_over_all(self) -> float:
        """R where all gradients agree and are clipped: no data reaches more."""
        return self.largest * math.sqrt(self.steps)

    @property
    def decides(self) -> float:
        """R as measured, or the largest possible one: made-up rows, and an R within its error, prove nothing."""
        return self.over_all if self.gradient.tells else self.largest_over_all

    @property
    def verdict(self) -> str:
        """ "hopeless", "doubtful", "unclear" or "fine".

        "unclear" is a low R that was not measured on real rows, or not beyond its error.
        """
        if self.decides < HOPELESS:
            return "hopeless"
        if self.decides < DOUBTFUL:
            return "doubtful"
        beyond = self.gradient.mean_norm > self.gradient.by_chance
        return "fine" if beyond and self.over_all >= DOUBTFUL else "unclear"


def signal_of(gradient: Gradient, plan: Plan, num_parameters: int) -> Signal:
    """Set the measured gradient beside the noise of a plan for `num_parameters` trainable parameters."""
    noise = plan.noise_std / plan.divisor * math.sqrt(num_parameters)
    return Signal(gradient=gradient, noise_norm=noise, steps=plan.steps, largest=plan.signal_to_noise(num_parameters))
