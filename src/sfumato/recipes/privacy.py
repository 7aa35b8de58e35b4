"""What a plan is made from: the loss of a run and its privacy settings."""

from dataclasses import dataclass
from typing import Annotated, Any, cast

import numpy as np
from scipy.stats import binom

from sfumato.base import BadInput, limits
from sfumato.base.ranges import check_ranges
from sfumato.plan import Example, Group, InfoNCE, Pair, PairLoss, Plan, Sigmoid, SpreadOut, Unit
from sfumato.sampling import FixedSize, Poisson, Sampler

_OVERFLOW = 1e-18  # so rare that its charge to delta does not show
_MORE = 100  # beyond twice the mean a draw of few records does not go either
_GROUP_SIZE = 16.0
_LARGEST_DELTA = 1e-3  # that is taken without being asked for


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
    temperature: Annotated[float, limits.TEMPERATURE] = 0.2
    bias: Annotated[float, limits.BIAS] = 0.0
    symmetric: bool = True

    def __post_init__(self) -> None:
        check_ranges(self)

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
        delta: None takes 1 / (10 N), where that is small enough.
        expected_batch_size: of the plan; None: `usual_batch_size`, or all records where there are fewer.
        usual_batch_size: see there; what a recipe takes.
        steps, clip_norm, clip: of the plan.
        sampler: "poisson" or "fixed".
        cap: largest number of records in a Poisson draw; None: no limit, and for pairs, whose noise grows with it, the
            number that a draw passes with probability 1e-18.
        unit: what is clipped: "example", "group" or "pair".
        num_groups: of the unit group; None: as many as make `group_size` records each in expectation.
        group_size: see there; not read where `num_groups` is given.
        views: rows that a drawn record gives, to its group or clipped together.
        norms: of the unit pair: "exact", or "bound" by the triangle inequality.
    """

    epsilon: Annotated[float | None, limits.EPSILON] = 8.0
    delta: Annotated[float | None, limits.DELTA] = None
    noise_multiplier: Annotated[float | None, limits.NOISE] = None
    expected_batch_size: Annotated[int | None, limits.BATCH] = None
    usual_batch_size: Annotated[int, limits.BATCH] = 2048
    steps: Annotated[int, limits.STEPS] = 400
    clip_norm: Annotated[float, limits.CLIP_NORM] = 1.0
    clip: str = "flat"
    sampler: str = "poisson"
    cap: Annotated[int | None, limits.CAP] = None
    unit: str = "example"
    num_groups: Annotated[int | None, limits.GROUPS] = None
    group_size: Annotated[float, limits.GROUP_SIZE] = _GROUP_SIZE
    views: Annotated[int, limits.VIEWS] = 1
    norms: str = "exact"

    def __post_init__(self) -> None:
        check_ranges(self)

    def plan(self, num_records: int, loss: Loss | None = None) -> Plan:
        """Return the plan for `num_records`, calibrated to `epsilon` where no noise multiplier is given.

        Args:
            num_records: N.
            loss: of the run; the unit pair takes its bounds from it.

        Raises:
            BadInput: neither or both of epsilon and noise_multiplier, or numbers that contradict each other or the
                number of records.
        """
        if (self.epsilon is None) == (self.noise_multiplier is None):
            raise BadInput("give one of --epsilon and --noise-multiplier.")
        plan = self.uncalibrated(self.sampler_of(num_records), loss)
        return plan if self.epsilon is None else plan.calibrated(epsilon=self.epsilon)

    def uncalibrated(self, sampler: Sampler, loss: Loss | None = None, **more: Any) -> Plan:
        """Return the plan under `sampler` with the noise multiplier that is given, or none yet.

        Args:
            sampler: as of `sampler_of`, or another one.
            loss: of the run; the unit pair takes its bounds from it.
            more: other arguments of `Plan`.

        Raises:
            BadInput: numbers that contradict each other, or so few records that delta has to be given.
        """
        unit = self._unit(sampler, loss or Loss())
        delta = cast(float, self.delta)  # None becomes 1 / (10 N)
        noise = self.noise_multiplier
        plan = Plan(unit=unit, sampler=sampler, steps=self.steps, delta=delta, noise_multiplier=noise, **more)
        if self.delta is None and noise != 0.0 and sampler.num_records is not None:  # without noise nothing is claimed
            check_default_delta(sampler.num_records)
        return plan

    @property
    def batch_size(self) -> int:
        """The expected batch size where there are records enough."""
        return self.usual_batch_size if self.expected_batch_size is None else self.expected_batch_size

    def sampler_of(self, num_records: int) -> Sampler:
        """Return how the records of a step are drawn from `num_records`.

        Raises:
            BadInput: a sampler that there is not, a batch of more records than there are, or a cap without a draw.
        """
        if self.sampler not in ("poisson", "fixed"):
            raise BadInput(f"--sampler is poisson or fixed, got {self.sampler!r}.")
        if self.expected_batch_size is not None and self.expected_batch_size > num_records:
            raise BadInput(
                f"--expected-batch-size {self.expected_batch_size} exceeds the number of records, {num_records}: "
                "choose a smaller one, or leave it out."
            )
        batch = min(self.batch_size, num_records)
        if self.sampler == "fixed":
            if self.cap is not None:
                raise BadInput("--cap belongs to --sampler poisson: a batch of fixed size has no larger draw.")
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
            return Group(**clip, num_groups=self._groups(sampler.divisor), views=self.views)
        if self.unit != "pair":
            raise BadInput(f"the unit is example, group or pair, got {self.unit!r}.")
        if self.clip != "flat":
            raise BadInput("pairs are clipped flat: leave out --clip.")
        return Pair(clip_norm=self.clip_norm, loss=loss.of_pairs(), norms=self.norms)  # pyright: ignore[reportArgumentType]

    def _groups(self, batch: float) -> int:
        """Return the number of groups of a step of `batch` expected records."""
        if self.num_groups is None:
            if self.group_size > batch and self.group_size != _GROUP_SIZE:
                raise BadInput(f"--group-size {self.group_size:g} exceeds the expected batch size, {batch:g}.")
            return max(1, round(batch / self.group_size))
        if self.num_groups > batch:
            raise BadInput(f"--num-groups {self.num_groups} exceeds the expected batch size, {batch:g}.")
        return self.num_groups


def check_default_delta(num_records: int) -> None:
    """Raise BadInput where 1 / (10 N), which is taken where no delta is given, is too large for a claim."""
    delta = 1.0 / (10.0 * num_records)
    if delta > _LARGEST_DELTA:
        raise BadInput(
            f"{num_records} records are so few that the default delta 1 / (10 N) is {delta:.2g}: give --delta (below "
            f"{_LARGEST_DELTA:g}), and check that the records are counted as meant (--owner-column)."
        )
