"""What a plan is made from: the loss of a run and its privacy settings."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal, cast

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
    """What is minimised, and what a contrastive loss compares."""

    kind: str = "caption"
    """caption, infonce, sigmoid, spread-out, classes (cross-entropy of a classifier) or answer."""

    temperature: Annotated[float, limits.TEMPERATURE] = 0.2
    """Public constant that divides similarities. Under logit-dp it decides how far one record can move the sum."""

    bias: Annotated[float, limits.BIAS] = 0.0
    """Public constant of the sigmoid loss."""

    symmetric: bool = True
    """InfoNCE of both directions instead of one."""

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
    """Noise, sampling and clipping: what the plan is made from once the number of records is known."""

    epsilon: Annotated[float | None, limits.EPSILON] = 8.0
    """Target epsilon; the noise is calibrated to it."""

    delta: Annotated[float | None, limits.DELTA] = None
    """Delta of the claim. Default: 1 / (10 N), where that is small enough; has to be given below 100 records."""

    noise_multiplier: Annotated[float | None, limits.NOISE] = None
    """Noise standard deviation divided by the L2 sensitivity; alternative to --epsilon."""

    expected_batch_size: Annotated[int | None, limits.BATCH] = None
    """Expected size of the logical batch: one noise draw. At most the number of records, which is also the default
    where the recipe's own is larger."""

    usual_batch_size: Annotated[int, limits.BATCH] = 2048
    """The expected batch size that a recipe takes where there are enough records."""

    steps: Annotated[int, limits.STEPS] = 400
    """Number of steps."""

    clip_norm: Annotated[float, limits.CLIP_NORM] = 1.0
    """Clipping norm C: maximum L2 norm of each clipped unit (example, group or pair)."""

    clip: Literal["flat", "automatic"] = "flat"
    """How gradients are clipped: factor min(1, C / norm), or C / (norm + gamma)."""

    sampler: Literal["poisson", "fixed"] = "poisson"
    """Poisson sampling, or a fixed batch size without replacement."""

    cap: Annotated[int | None, limits.CAP] = None
    """Largest number of records in a Poisson draw; of a larger draw a random subset is kept, for which epsilon pays.
    Default: no limit; for pairs, whose noise grows with it, the number that a draw passes with probability 1e-18."""

    unit: Literal["example", "group", "pair"] = "example"
    """What is clipped."""

    num_groups: Annotated[int | None, limits.GROUPS] = None
    """Number of groups. Default: as many as make --group-size records each in expectation."""

    group_size: Annotated[float, limits.GROUP_SIZE] = _GROUP_SIZE
    """Expected records of a group; alternative to --num-groups."""

    views: Annotated[int, limits.VIEWS] = 1
    """Rows that each drawn record gives: to its group, where they are more negatives, or, clipped together, as the
    record's own (several questions of an image). No cost in privacy."""

    norms: Literal["exact", "bound"] = "exact"
    """With one encoder: the exact norm of a pair's gradient, or its bound by the triangle inequality (cheaper)."""

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
