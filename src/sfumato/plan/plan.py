"""The plan: unit, sampler, noise and accountant in one frozen object: all that epsilon depends on, and no more."""

import math
from dataclasses import dataclass, replace
from typing import Any, Literal, Self, cast

from sfumato import accounting
from sfumato.accounting import Accountant
from sfumato.base import BadInput, GaussianStep, Refused, Relation
from sfumato.plan import serialise, warnings
from sfumato.plan.checks import not_negative, whole
from sfumato.plan.claim import Claim
from sfumato.plan.coupled import Group, Pair
from sfumato.plan.resize import resized
from sfumato.plan.resolve import resolve_delta, resolve_relation
from sfumato.plan.units import Unit
from sfumato.sampling import FixedSize, FullBatch, Poisson, Sampler

Solve = Literal["noise_multiplier", "steps", "batch_size"]
_DEFAULT_DELTA = cast(float, None)  # None until __post_init__ has run: readers of a plan never meet it
_DEFAULT_RELATION = cast(Relation, None)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is clipped, how records are drawn, how often, and with how much noise.

    The loader that trains reads the same object as the accountant, so that what is charged is what is done. A plan
    holds public constants only and serialises to JSON.

        plan = Plan(unit=Example(clip_norm=1.0), sampler=Poisson(num_records=60_000, expected_batch_size=2048),
                    steps=400).calibrated(epsilon=8)

    Attributes:
        unit: what is clipped, with its proved distances.
        sampler: how the records of a step are drawn.
        steps: T, the planned number of steps.
        delta: in (0, 1); None becomes 1 / (10 N) and has to be given where N is hidden.
        noise_multiplier: noise std / presence; None until calibrated; 0 for a run without noise (and without epsilon).
        relation: which data sets are neighbours; None becomes the sampler's default.
        is_simulation: a scaled-down twin (TAN): it trains, and carries no epsilon.

    `delta` and `relation` are never None after construction.

    Raises:
        BadInput: a number is out of range, or delta is missing where N is hidden.
        Refused: the sampler and the relation contradict one another.
    """

    unit: Unit
    sampler: Sampler
    steps: int
    delta: float = _DEFAULT_DELTA
    noise_multiplier: float | None = None
    relation: Relation = _DEFAULT_RELATION
    is_simulation: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.unit, Unit):
            raise BadInput(f"unit must be a unit such as Example(clip_norm=1.0), got {self.unit!r}.")
        if not isinstance(self.sampler, Poisson | FixedSize | FullBatch):
            raise BadInput(f"sampler must be Poisson, FixedSize or FullBatch, got {self.sampler!r}.")
        object.__setattr__(self, "unit", self.unit.within(self.sampler.largest_draw))
        object.__setattr__(self, "steps", whole("steps", self.steps))
        if self.noise_multiplier is not None:
            object.__setattr__(self, "noise_multiplier", not_negative("noise_multiplier", self.noise_multiplier))
        object.__setattr__(self, "relation", resolve_relation(self.relation, self.sampler))
        object.__setattr__(self, "delta", resolve_delta(self.delta, self.sampler))
        _ = self.divisor  # raises where it was not declared

    @property
    def presence(self) -> float:
        """How far the sum moves when a record joins the draw, in the unit of the clip norm."""
        return self.unit.presence

    @property
    def swap(self) -> float:
        """How far the sum moves when a drawn record is exchanged."""
        return self.unit.swap

    @property
    def noise_std(self) -> float:
        """The standard deviation of the noise on every coordinate of the sum: noise_multiplier x presence."""
        if self.noise_multiplier is None:
            raise BadInput("the plan has no noise yet: give noise_multiplier, or call plan.calibrated(epsilon=...).")
        return self.noise_multiplier * self.presence

    @property
    def divisor(self) -> float:
        """The public constant that divides the noisy sum: how many clipped things are in a step, in expectation."""
        return self.unit.divisor(self.sampler.divisor)

    @property
    def batch_size(self) -> float:
        """The expected number of records of a step, a public constant."""
        return self.sampler.divisor

    @property
    def sampling_prob(self) -> float:
        """How probable it is that one given record is in a step."""
        return cast(float, self.sampler.sampling_prob)

    @property
    def step_event(self) -> GaussianStep:
        """One step as a neutral event for the accountant.

        Raises:
            BadInput: the plan has no noise yet.
            Refused: simulation, conjectured unit, or no noise: there is nothing to account for.
        """
        self.check_proved()
        if self.noise_std == 0.0:
            raise Refused("noise_multiplier is 0: a run without noise has no epsilon.")
        return self._event(self.noise_std)

    def _event(self, std: float) -> GaussianStep:
        return GaussianStep(
            draw=self.sampler.draw_event, relation=self.relation, std=std, presence=self.presence, swap=self.swap
        )

    @property
    def default_accountant(self) -> Accountant:
        """PLD where it has a proved charge for this sampler and relation, else RDP."""
        return "pld" if accounting.supported(self._event(1.0), "pld") else "rdp"

    def check_proved(self) -> None:
        """Raise Refused if nothing this plan does can carry an epsilon."""
        if self.is_simulation:
            raise Refused("this plan is a scaled-down simulation (TAN): it carries no epsilon.")
        if not self.unit.proved:
            raise Refused(f"NOT PROVED: {self.unit.describe()}. A Conjectured unit or loss carries no epsilon.")

    def epsilon(self, steps: int | None = None, accountant: Accountant | None = None) -> float:
        """Return epsilon at `delta` after `steps` executed steps (None: the planned number).

        Executed steps are those of all attempts: a step that is done again with new noise counts again.

        Args:
            steps: executed steps, >= 0; may exceed the plan's.
            accountant: "pld" or "rdp"; None takes `default_accountant`.

        Raises:
            Refused: simulation, conjectured unit, no noise, or no proved charge by this accountant.
            BadInput: the plan has no noise yet, or `steps` is no whole number >= 0.
        """
        self.check_proved()
        count = self.steps if steps is None else whole("steps", steps, low=0)
        return accounting.epsilon([(self.step_event, count)], self.delta, accountant or self.default_accountant)

    def epsilon_pld(self, steps: int | None = None) -> float | None:
        """Return epsilon by PLD, None where this sampler and relation have no PLD charge; errors as `epsilon`."""
        return self._epsilon_or_none(steps, "pld")

    def epsilon_rdp(self, steps: int | None = None) -> float | None:
        """Return epsilon by RDP, None where this sampler and relation have no RDP charge; errors as `epsilon`."""
        return self._epsilon_or_none(steps, "rdp")

    def _epsilon_or_none(self, steps: int | None, accountant: Accountant) -> float | None:
        self.check_proved()
        if not accounting.supported(self.step_event, accountant):
            return None
        return self.epsilon(steps, accountant)

    def calibrated(
        self, *, epsilon: float, accountant: Accountant | None = None, solve: Solve = "noise_multiplier"
    ) -> Self:
        """Return the plan with one number chosen so that its reported epsilon is at most the target, and hardly less.

        Args:
            epsilon: the target at the plan's delta.
            accountant: None takes `default_accountant`.
            solve: "noise_multiplier" (the least), "steps" or "batch_size" (the largest). The others stay; for a batch
                size the data set's size has to be declared.

        Raises:
            Refused: nothing reaches the target, or the plan carries no epsilon.
            BadInput: the target is out of range.
        """
        self.check_proved()
        target: dict[str, Any] = {
            "epsilon": epsilon,
            "delta": self.delta,
            "accountant": accountant or self.default_accountant,
        }
        if solve == "noise_multiplier":
            return replace(
                self, noise_multiplier=accounting.calibrate_noise_multiplier(self._event(1.0), self.steps, **target)
            )
        if solve == "steps":
            return replace(self, steps=accounting.calibrate_steps(self.step_event, **target))
        if solve != "batch_size":
            raise BadInput(f"solve must be 'noise_multiplier', 'steps' or 'batch_size', got {solve!r}.")
        if self.sampler.num_records is None or isinstance(self.sampler, FullBatch):
            raise BadInput("a batch size can be solved for Poisson with num_records and for FixedSize only.")
        batch = accounting.calibrate_batch(
            lambda size: self.with_batch_size(size).step_event, self.sampler.num_records, self.steps, **target
        )
        return self.with_batch_size(batch)

    def with_steps(self, steps: int) -> Self:
        """Return the plan with another number of steps; the noise stays."""
        return replace(self, steps=steps)

    def with_batch_size(self, batch_size: float) -> Self:
        """Return the plan with another (expected) batch size and divisor; noise_multiplier and cap stay.

        Where N is hidden, the sampling probability grows in proportion.

        Raises:
            BadInput: the sampler has no batch size, or this one is impossible.
        """
        return replace(self, sampler=resized(self.sampler, batch_size))

    def twin(self, k: float) -> Self:
        """Return the simulation at a k times smaller batch with T and sigma / batch as they are (TAN).

        As long as the noise of the mean gradient decides, it follows the same loss curve for 1/k of the work. Its noise
        is too small for any claim: it carries no epsilon, and on private data it is an unaccounted look.

        Raises:
            BadInput: k < 1, the plan has no noise yet, or the batch cannot be divided.
            Refused: the unit is no single example.
        """
        if isinstance(k, bool) or not isinstance(k, int | float) or not 1.0 <= k < math.inf:
            raise BadInput(f"a twin is k >= 1 times smaller, got {k!r}.")
        if isinstance(self.unit, Group | Pair):
            raise Refused("a simulation (TAN) scales terms of single examples: it says nothing of groups or pairs.")
        noise = self.noise_std / self.presence / k
        sampler = resized(self.sampler, self.batch_size / k)
        if isinstance(sampler, Poisson) and sampler.cap is not None:
            sampler = replace(sampler, cap=math.ceil(sampler.cap / k))
        return replace(self, sampler=sampler, noise_multiplier=noise, is_simulation=True)

    def claim(self, steps: int, *, stop_was_public: bool = False) -> Claim:
        """Return what may be said of a run that executed `steps` steps (all attempts together).

        More steps than planned are charged as executed. Fewer are charged as planned: why a run stopped is not known
        here, and a stop that depends on the weights (a validation score) is one of the planned number of outcomes.

        Args:
            steps: executed steps, >= 0.
            stop_was_public: the earlier stop was decided without looking at weights or data.

        Raises:
            BadInput: the plan has no noise yet, or `steps` is no whole number >= 0.
        """
        executed = whole("steps", steps, low=0)
        charged = executed if stop_was_public else max(executed, self.steps)
        proved = not self.stamps
        return Claim(
            steps_executed=executed,
            steps_planned=self.steps,
            steps_charged=charged,
            epsilon=self.epsilon(charged) if proved else None,
            epsilon_pld=self.epsilon_pld(charged) if proved else None,
            epsilon_rdp=self.epsilon_rdp(charged) if proved else None,
            delta=self.delta,
            accountant=self.default_accountant if proved else None,
            relation=self.relation,
            unit=self.unit.describe(),
            stamps=self.stamps,
        )

    @property
    def stamps(self) -> tuple[str, ...]:
        """Why nothing may be claimed, in the words of the card; empty where something may."""
        stamps = []
        if self.is_simulation:
            stamps.append("NOT PROVED: a scaled-down simulation (TAN) carries no epsilon")
        if not self.unit.proved:
            stamps.append(f"NOT PROVED: {self.unit.describe()}")
        if self.noise_std == 0.0:
            stamps.append("NOT PRIVATE: no noise was added")
        elif (self.noise_multiplier or 0.0) < warnings.HARDLY_ANY_NOISE:
            stamps.append("NOT PRIVATE: there is too little noise for any epsilon")
        return tuple(stamps)

    @property
    def warnings(self) -> list[str]:
        """What a user should hear before training, as sentences; empty for a plan without oddities."""
        return self.warnings_for(None)

    def warnings_for(self, num_parameters: int | None) -> list[str]:
        """Return `warnings`, with the signal-to-noise ratio of a model of `num_parameters` trainable parameters."""
        calibrated = self.noise_multiplier is not None
        return warnings.find(
            delta=self.delta,
            num_records=self.sampler.num_records,
            batch_size=self.batch_size,
            cap=getattr(self.sampler, "cap", None),
            steps=self.steps,
            sampling_prob=self.sampling_prob,
            noise_multiplier=self.noise_multiplier,
            epsilon=warnings.epsilon_of(self) if calibrated else None,
            signal_to_noise=self.signal_to_noise(num_parameters or warnings.FEW_PARAMETERS) if calibrated else None,
            num_parameters=num_parameters,
            caution=self.unit.caution(self.batch_size),
        )

    def signal_to_noise(self, num_parameters: int) -> float:
        """Return the largest norm of the mean gradient over the expected norm of its noise, for one step.

        The largest norm is C (example unit), reached when all gradients agree and are clipped; the noise on the mean
        has std noise_std / divisor in each of d coordinates, so an expected L2 norm of sqrt(d) times that.
        Infinite without noise.
        """
        noise = self.noise_std / self.divisor * math.sqrt(whole("num_parameters", num_parameters))
        return self.unit.largest_mean(self.batch_size) / noise if noise else math.inf

    def summary(self) -> dict[str, Any]:
        """Return the plan in the keys of `sfumato plan --json`; epsilons are None where there is none.

        Raises:
            BadInput: the plan has no noise yet.
        """
        claimed = not self.stamps
        return {
            "noise_multiplier": self.noise_multiplier,
            "noise_std": self.noise_std,
            "presence": self.presence,
            "swap": self.swap,
            "sampling_prob": self.sampling_prob,
            "steps": self.steps,
            "delta": self.delta,
            "epsilon_pld": self.epsilon_pld() if claimed else None,
            "epsilon_rdp": self.epsilon_rdp() if claimed else None,
            "relation": str(self.relation),
            "unit": self.unit.describe(),
            "is_simulation": self.is_simulation,
        }

    def to_json(self) -> dict[str, Any]:
        """Return the plan as plain JSON values; `from_json` gives back an equal plan."""
        return serialise.to_json(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Self:
        """Return the plan that `to_json` wrote. Raises BadInput naming unknown or missing keys."""
        return cls(**serialise.fields_from_json(values))
