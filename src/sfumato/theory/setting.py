"""The setting of a linear run: data, plan, learning rate. One object, read by the prediction and by the simulation."""

import math
from dataclasses import dataclass

from sfumato.base import BadInput
from sfumato.plan import Group, Plan
from sfumato.sampling import Poisson
from sfumato.theory.spiked import Spiked


@dataclass(frozen=True, kw_only=True)
class LinearClip:
    """A linear dual encoder trained under the plan's own clipping, sampling and noise.

    Attributes:
        data: the spiked model.
        plan: a `Group` unit with flat clipping (one group of everything is DP-CLIP, many are DP-GCL) and `Poisson`
            sampling with N declared, with its noise; steps is T.
        learning_rate: eta, of plain gradient descent on the noisy mean over groups.
        rho: weight of the penalty, > 0. It is part of each group's gradient, before clipping.
        start_angle: radians in [0, pi/2) between each direction of the start and its target: fine-tuning from a
            public model that is partly right.

    Raises:
        BadInput: a number is out of its range, or the plan is of another kind.
    """

    data: Spiked
    plan: Plan
    learning_rate: float
    rho: float = 1.0
    start_angle: float = 0.3

    def __post_init__(self) -> None:
        unit, sampler = self.plan.unit, self.plan.sampler
        if not isinstance(unit, Group) or unit.clip != "flat" or unit.views != 1:
            raise BadInput("the linear setting is derived for the unit Group with flat clipping and one view.")
        if not isinstance(sampler, Poisson) or sampler.num_records is None or sampler.cap is not None:
            raise BadInput("the linear setting is derived for Poisson sampling with num_records and without a cap.")
        if not 0 < self.learning_rate < math.inf:
            raise BadInput(f"learning_rate must be positive and finite, got {self.learning_rate}.")
        if not 0 < self.rho < math.inf:
            raise BadInput(f"rho must be positive and finite, got {self.rho}.")
        if not 0 <= self.start_angle < math.pi / 2:
            raise BadInput(f"start_angle must be in [0, pi/2), got {self.start_angle}.")
        _ = self.noise_std  # raises where the plan has no noise yet

    @property
    def unit(self) -> Group:
        """The unit of the plan."""
        assert isinstance(self.plan.unit, Group)
        return self.plan.unit

    @property
    def num_records(self) -> int:
        """n."""
        assert self.plan.sampler.num_records is not None
        return self.plan.sampler.num_records

    @property
    def noise_std(self) -> float:
        """s, the standard deviation of the noise on each coordinate of the mean over groups: of one step's gradient."""
        return self.plan.noise_std / self.plan.divisor
