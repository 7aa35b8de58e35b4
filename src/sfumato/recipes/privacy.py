"""What a plan is made from: the loss of a run and its privacy settings."""

from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from scipy.stats import binom

from sfumato.base import BadInput
from sfumato.plan import Example, Group, InfoNCE, Pair, PairLoss, Plan, Sigmoid, SpreadOut, Unit
from sfumato.sampling import FixedSize, Poisson, Sampler

_OVERFLOW = 1e-18  # so rare that its charge to delta does not show
_MORE = 100  # beyond twice the mean a draw of few records does not go either


@dataclass(frozen=True, kw_only=True)
class Loss:
    """What is minimised.

    Attributes:
        kind: "caption", "infonce", "sigmoid", "spread-out", "classes" (cross-entropy of a classifier) or "answer".
        temperature: tau, by which similarities are divided; a public constant.
        bias: b of the sigmoid loss; a public constant.
        symmetric: InfoNCE of both directions instead of one.
    """

    kind: str = "caption"
    temperature: float = 0.2
    bias: float = 0.0
    symmetric: bool = True

    def of_pairs(self) -> PairLoss:
        """Return the loss of similarities.

        Raises:
            BadInput: the kind is no loss of similarities, or a constant is out of range.
        """
        if self.kind == "infonce":
            return InfoNCE(temperature=self.temperature, symmetric=self.symmetric)
        if self.kind == "sigmoid":
            return Sigmoid(temperature=self.temperature, bias=self.bias)
        if self.kind == "spread-out":
            return SpreadOut()
        raise BadInput(f"--loss is infonce, sigmoid or spread-out, got {self.kind!r}.")


@dataclass(frozen=True, kw_only=True)
class Privacy:
    """What the plan is made from once the number of records is known.

    Attributes:
        epsilon: target; None takes `noise_multiplier` as it is.
        delta: None takes 1 / (10 N).
        expected_batch_size, steps, clip_norm, clip: of the plan.
        sampler: "poisson" or "fixed".
        cap: largest number of records in a Poisson draw; None: no limit, and for pairs, whose noise grows with it, the
            number that a draw passes with probability 1e-18.
        unit: what is clipped: "example", "group" or "pair".
        num_groups: of the unit group; None: as many as make `group_size` records each in expectation.
        group_size: see there.
        views: rows that a drawn record gives, to its group or clipped together.
        norms: of the unit pair: "exact", or "bound" by the triangle inequality.
    """

    epsilon: float | None = 8.0
    delta: float | None = None
    noise_multiplier: float | None = None
    expected_batch_size: int = 2048
    steps: int = 400
    clip_norm: float = 1.0
    clip: str = "flat"
    sampler: str = "poisson"
    cap: int | None = None
    unit: str = "example"
    num_groups: int | None = None
    group_size: float = 16.0
    views: int = 1
    norms: str = "exact"

    def plan(self, num_records: int, loss: Loss | None = None) -> Plan:
        """Return the plan for `num_records`, calibrated to `epsilon` where no noise multiplier is given.

        Args:
            num_records: N.
            loss: of the run; the unit pair takes its bounds from it.

        Raises:
            BadInput: neither or both of epsilon and noise_multiplier, or numbers that contradict each other.
        """
        if (self.epsilon is None) == (self.noise_multiplier is None):
            raise BadInput("give one of --epsilon and --noise-multiplier.")
        sampler = self._sampler(num_records)
        unit = self._unit(sampler, loss or Loss())
        delta = cast(float, self.delta)  # None becomes 1 / (10 N)
        plan = Plan(unit=unit, sampler=sampler, steps=self.steps, delta=delta, noise_multiplier=self.noise_multiplier)
        accountant = "pld" if self.sampler == "poisson" else "rdp"
        return plan if self.epsilon is None else plan.calibrated(epsilon=self.epsilon, accountant=accountant)

    def _sampler(self, num_records: int) -> Sampler:
        batch = min(self.expected_batch_size, num_records)
        if self.sampler == "fixed":
            return FixedSize(num_records=num_records, batch_size=batch)
        cap = self.cap
        if cap is None and self.unit == "pair":
            sizes = np.arange(batch, min(num_records, 2 * batch + _MORE) + 1)
            passed = binom.sf(sizes - 1, num_records, batch / num_records) > _OVERFLOW
            cap = batch + int(passed.sum())
        capped = cap if cap is not None and cap < num_records else None
        return Poisson(num_records=num_records, expected_batch_size=batch, cap=capped)

    def _unit(self, sampler: Sampler, loss: Loss) -> Unit:
        clip: dict[str, Any] = {"clip_norm": self.clip_norm, "clip": self.clip}
        if self.unit == "example":
            return Example(**clip, views=self.views)
        if self.unit == "group":
            groups = self.num_groups or max(1, round(sampler.divisor / self.group_size))
            return Group(**clip, num_groups=groups, views=self.views)
        if self.unit != "pair":
            raise BadInput(f"the unit is example, group or pair, got {self.unit!r}.")
        if self.clip != "flat":
            raise BadInput("pairs are clipped flat: leave out --clip.")
        return Pair(clip_norm=self.clip_norm, loss=loss.of_pairs(), norms=self.norms)  # pyright: ignore[reportArgumentType]
