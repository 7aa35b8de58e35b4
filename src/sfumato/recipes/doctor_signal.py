"""Signal and noise of the first step: the mean clipped gradient on made-up or public rows beside the plan's noise.

P trainable parameters, B expected rows of a step, T steps, C the clip norm.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from sfumato import mechanisms, norms
from sfumato.base import BadInput
from sfumato.mechanisms import MicroBatch
from sfumato.mechanisms.group import clip_whole, sizes_of
from sfumato.mechanisms.group_loss import NotFinite, group_loss
from sfumato.plan import Plan
from sfumato.recipes.doctor_case import Case
from sfumato.recipes.doctor_measure import micro_batch

HOPELESS = 1.0
"""Over T steps a gradient that never turns adds up to T g, the noise to sqrt(T) times its own length: with
R = SNR sqrt(T), R^2 / (1 + R^2) of the squared way that the weights go is signal. Below 1 that is less than half, even
for a gradient that never turns, and gradients turn."""
DOUBTFUL = 3.0
"""Below 3 less than nine tenths of the squared way is signal."""
MADE_UP = "made-up"


@dataclass(frozen=True, kw_only=True)
class Gradient:
    """The first step's gradient.

    Attributes:
        num_units: how many rows or groups it was measured on.
        mean_norm: norm of the mean clipped gradient, without the part that is there only because of the few rows.
        clipped: share of the units whose gradient was longer than C.
        clip_norm: C.
        inputs: "made-up" or the name of the public set.
    """

    num_units: int
    mean_norm: float
    clipped: float
    clip_norm: float
    inputs: str


def first_gradient(case: Case, batches: Iterable[MicroBatch], clip_norm: float, inputs: str) -> Gradient:
    """Measure the mean clipped gradient at the initial weights.

    With S = sum of n clipped gradients v_i, the squared norm of their mean in the population is estimated without bias
    by (|S|^2 - sum |v_i|^2) / (n (n - 1)): |S / n| alone would count the scatter of n rows as signal.

    Raises:
        Refused: something is not measured.
        BadInput: fewer than two rows or groups.
    """
    computation, factor = case.computation, mechanisms.flat(clip_norm)
    measured: Any = None
    total: dict[str, Tensor] = {}
    squares, count, cut = 0.0, 0, 0
    for batch in batches:
        measured = measured or computation.measure(batch)
        found = _clipped(case, computation, batch, measured, factor)
        for name, grad in found.grads.items():
            total[name] = total[name].add_(grad) if name in total else grad.double()
        used = found.factors > 0
        squares += float((found.factors[used].double() * found.norms[used].double()).square().sum())
        count += int(used.sum())
        cut += int((found.factors[used] < 1).sum())
    if count < 2:
        raise BadInput("the signal needs two rows or groups with a finite gradient.")
    whole = sum(float(grad.square().sum()) for grad in total.values())
    mean = math.sqrt(max(whole - squares, 0.0) / (count * (count - 1)))
    return Gradient(num_units=count, mean_norm=mean, clipped=cut / count, clip_norm=clip_norm, inputs=inputs)


def made_up(case: Case, rows: int, at_once: int, group_size: int) -> list[MicroBatch]:
    """Return made-up micro-batches that differ from each other."""
    groups = min(group_size, max(2, at_once // 2))
    whole = micro_batch(case, rows, groups)
    return [_part(whole, start, min(start + at_once, rows)) for start in range(0, rows, at_once)]


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
        sizes, used = sizes_of(batch)
        loss = group_loss(computation).whole(batch, sizes)
        try:
            return clip_whole(computation, loss, batch, measured, factor, sizes, used)
        except NotFinite as error:
            raise BadInput("the loss of some of these rows is not finite.") from error
    return norms.clipped_sum(case.model, computation.loss_fn, batch.batch, measured, factor)


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
    def verdict(self) -> str:
        """ "hopeless", "doubtful", "unclear" or "fine".

        Made-up rows prove nothing against a model: there the largest possible R decides, and a low one is "unclear".
        """
        made_up = self.gradient.inputs == MADE_UP
        decides = self.largest_over_all if made_up else self.over_all
        if decides < HOPELESS:
            return "hopeless"
        if decides < DOUBTFUL:
            return "doubtful"
        return "unclear" if self.over_all < DOUBTFUL else "fine"


def signal_of(gradient: Gradient, plan: Plan, num_parameters: int) -> Signal:
    """Set the measured gradient beside the noise of a plan for `num_parameters` trainable parameters."""
    noise = plan.noise_std / plan.divisor * math.sqrt(num_parameters)
    return Signal(gradient=gradient, noise_norm=noise, steps=plan.steps, largest=plan.signal_to_noise(num_parameters))
