"""Signal and noise of the first step: the mean clipped gradient on made-up or public rows beside the plan's noise.

P trainable parameters, B expected rows of a step, T steps, C the clip norm.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sfumato import mechanisms, norms
from sfumato.base import BadInput
from sfumato.mechanisms import MicroBatch
from sfumato.mechanisms.group import clip_whole
from sfumato.mechanisms.group_loss import group_loss
from sfumato.plan import Plan
from sfumato.recipes.doctor_measure import micro_batch
from sfumato.recipes.doctor_models import Case

HOPELESS = 1.0
"""Over T steps a gradient that never turns adds up to T g, the noise to sqrt(T) times its own length: with
R = SNR sqrt(T), R^2 / (1 + R^2) of the squared way that the weights go is signal. Below 1 that is less than half, even
for a gradient that never turns, and gradients turn."""
DOUBTFUL = 3.0
"""Below 3 less than nine tenths of the squared way is signal."""
MADE_UP = "made-up"
_LORA_RANK = 8


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
        assert batch.groups is not None
        sizes = torch.unique_consecutive(batch.groups, return_counts=True)[1].tolist()
        losses, used = group_loss(computation).whole(batch, sizes), torch.ones(len(sizes), dtype=torch.bool)
        return clip_whole(computation, losses, batch, measured, factor, sizes, used)
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


def lora_parameters(model: nn.Module, rank: int = _LORA_RANK) -> int:
    """Return how many numbers LoRA of this rank trains on every linear layer: rank (in + out) each."""
    total = 0
    for module in model.modules():
        weight = getattr(module, "weight", None)
        if isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D":
            total += rank * sum(weight.shape) if weight is not None else 0
    return total


def advice(signal: Signal, num_parameters: int, model: nn.Module) -> list[str]:
    """Return what to change, with numbers, for R to reach `DOUBTFUL`; empty where it does.

    R grows with sqrt(T) B / (sigma sqrt(P)) times the gradient's norm. The numbers rest on the measured R of public
    rows; on made-up ones on the largest possible R, so they are the least that helps.
    """
    if signal.verdict == "fine":
        return []
    real = signal.gradient.inputs != MADE_UP
    reached = signal.over_all if real and signal.over_all > 0 else signal.largest_over_all
    factor, least = DOUBTFUL / reached, "" if real else "at least "
    found = []
    if factor > 1:
        found.append(
            f"train at most {max(1, int(num_parameters / factor**2)):,} parameters (--train heads, bias, last-1), or "
            f"take {least}{factor:.1f} times the batch from as many times the records"
        )
    else:
        found.append(
            "measure it on public pictures (--data); fewer trainable parameters, larger batches, more records help"
        )
    lora = lora_parameters(model)
    if 0 < lora < num_parameters:
        gain = math.sqrt(num_parameters / lora)
        found.append(
            f"LoRA of rank {_LORA_RANK} on the linear layers, {lora:,} parameters, meets {gain:.1f} times less noise"
        )
    return [*found, "start from public pre-training, so that less has to be learned"]
