"""Find the one number of a plan that makes epsilon meet a target: noise multiplier, steps, or batch.

The search runs at a coarse discretization (0.1 s per value); what it finds is then checked at the discretization of the
report, and moved to the safe side until the REPORTED epsilon is at most the target.
"""

import math
from collections.abc import Callable
from dataclasses import replace

from scipy.optimize import brentq

from sfumato.accounting.compose import REPORT_DISCRETIZATION, SEARCH_DISCRETIZATION
from sfumato.accounting.conventions import Accountant, check_supported, supported
from sfumato.accounting.epsilon import check_delta, check_left, epsilon
from sfumato.base import BadInput, FixedSizeDraw, GaussianStep, Refused

MAX_EPSILON = 1000.0
MAX_STEPS = 1_000_000
_LEAST_NOISE = 0.02
_MOST_NOISE: dict[Accountant, float] = {"pld": 1e12, "rdp": 1e6}
"""Beyond, more noise counts as this much (`conventions`)."""
_FAR = 8.0  # a guess at the noise from which the search starts there, and not at 1
_OTHER_WAY = " RDP has no small epsilons (its orders end at 1,024): Poisson sampling has PLD."
_DIGITS = 5  # of a calibrated noise multiplier: what is printed is what is used


def calibrate_noise_multiplier(
    step: GaussianStep, num_steps: int, *, epsilon: float, delta: float, accountant: Accountant | None = None
) -> float:
    """Return the least noise multiplier (std / presence, five digits, rounded up) with epsilon at most the target.

    Args:
        step: draw, relation and distances; its std is not read.
        num_steps: how often the step is executed, >= 1.
        epsilon: the target, in (0, 1000].
        delta: in (0, 1).
        accountant: None takes PLD where it is supported, else RDP.

    Raises:
        Refused: no proved charge, no noise (up to 10^12, by RDP 10^6) reaches the target, or delta is used up by a cap
            or by rounding.
        BadInput: a number is out of range.
    """
    accountant = _checked(step, epsilon, delta, accountant)
    _check_steps(num_steps)
    check_left([(replace(step, std=_MOST_NOISE[accountant] * step.presence), num_steps)], delta, accountant)

    def at(multiplier: float, width: float) -> float:
        return _epsilon_or_inf(replace(step, std=multiplier * step.presence), num_steps, delta, accountant, width)

    def coarse(multiplier: float) -> float:
        return at(multiplier, SEARCH_DISCRETIZATION)

    def fine(multiplier: float) -> float:
        return at(multiplier, REPORT_DISCRETIZATION)

    most = _MOST_NOISE[accountant]
    try:
        found = _least_noise(coarse, epsilon, most, start=min(_guess(step, num_steps, epsilon, delta), most))
    except Refused as error:
        raise Refused(f"{error}{_OTHER_WAY if accountant == 'rdp' else ''}") from None
    found = _newton(found, coarse, fine(found) - epsilon)
    if abs(fine(found) - epsilon) > 1e-3 * epsilon:
        # Many steps sharing a small epsilon: coarse and fine differ too much for one step to join them.
        found = _least_noise(fine, epsilon, most, tolerance=1e-5, start=found)
    found = _round_up(found)
    while fine(found) > epsilon:
        found = _round_up(found * (1.0 + 1e-9))  # the next number of five digits
    return found


def _guess(step: GaussianStep, num_steps: int, epsilon: float, delta: float) -> float:
    """Return where to look first: 1, or near the noise of a Gaussian at a small epsilon where that is much."""
    draw = step.draw
    prob = (
        draw.batch_size / draw.num_records if isinstance(draw, FixedSizeDraw) else getattr(draw, "sampling_prob", 1.0)
    )
    noise = prob * math.sqrt(num_steps * 2.0 * math.log(1.25 / delta)) / epsilon
    return noise if noise > _FAR and epsilon < 1.0 else 1.0


def calibrate_steps(step: GaussianStep, *, epsilon: float, delta: float, accountant: Accountant | None = None) -> int:
    """Return the largest number of steps, up to 10^6, with epsilon at most the target.

    Raises:
        Refused: no proved charge, one step is already above the target, or it uses up delta.
        BadInput: a number is out of range.
    """
    accountant = _checked(step, epsilon, delta, accountant)
    check_left([(step, 1)], delta, accountant)

    def at(num_steps: int, width: float) -> float:
        return _epsilon_or_inf(step, num_steps, delta, accountant, width)

    return _largest(at, epsilon, MAX_STEPS, f"one step already exceeds epsilon = {epsilon:g}: raise the noise.")


def calibrate_batch(
    step_at: Callable[[int], GaussianStep],
    num_records: int,
    num_steps: int,
    *,
    epsilon: float,
    delta: float,
    accountant: Accountant | None = None,
) -> int:
    """Return the largest (expected) batch size, up to `num_records`, with epsilon at most the target.

    Args:
        step_at: the step at a given batch size, at fixed noise.
        num_records: N.
        num_steps: how often the step is executed, >= 1.
        epsilon: the target, in (0, 1000].
        delta: in (0, 1).
        accountant: None takes PLD where it is supported, else RDP.

    Raises:
        Refused: no proved charge, a batch of one is already above the target, or delta is used up.
        BadInput: a number is out of range.
    """
    accountant = _checked(step_at(1), epsilon, delta, accountant)
    _check_steps(num_steps)
    check_left([(step_at(1), num_steps)], delta, accountant)

    def at(batch: int, width: float) -> float:
        return _epsilon_or_inf(step_at(batch), num_steps, delta, accountant, width)

    return _largest(at, epsilon, num_records, f"a batch of one already exceeds epsilon = {epsilon:g}: raise the noise.")


def _checked(step: GaussianStep, target: float, delta: float, accountant: Accountant | None) -> Accountant:
    if not 0.0 < target <= MAX_EPSILON:
        raise BadInput(f"the target epsilon must lie in (0, {MAX_EPSILON:g}], got {target}.")
    check_delta(delta)
    chosen: Accountant = accountant or ("pld" if supported(step, "pld") else "rdp")
    check_supported(step, chosen)
    return chosen


def _check_steps(num_steps: int) -> None:
    if int(num_steps) != num_steps or num_steps < 1:
        raise BadInput(f"the number of steps must be a whole number >= 1, got {num_steps}.")


def _epsilon_or_inf(step: GaussianStep, num_steps: int, delta: float, accountant: Accountant, width: float) -> float:
    """Return epsilon, infinite where there is none: to a search that is only "too much"."""
    try:
        return epsilon([(step, num_steps)], delta, accountant, width)
    except Refused:
        return math.inf


def _least_noise(
    epsilon_at: Callable[[float], float], target: float, most: float, *, start: float, tolerance: float = 2e-3
) -> float:
    """Return the root of epsilon_at(multiplier) = target; epsilon falls with the noise."""
    high = start
    while epsilon_at(high) > target:
        high *= 2.0
        if high > most:
            raise Refused(f"no noise multiplier up to {most:g} reaches epsilon = {target:g} at this delta.")
    low = high
    while low > _LEAST_NOISE and epsilon_at(low) <= target:
        high, low = low, low * 0.75
    if epsilon_at(low) <= target:
        return low

    # Infinite values are cut off: the root search only needs the sign there.
    def gap(log_noise: float) -> float:
        return min(epsilon_at(math.exp(log_noise)), 10.0 * target) - target

    return math.exp(float(brentq(gap, math.log(low), math.log(high), xtol=tolerance)))  # pyright: ignore[reportArgumentType]


def _newton(multiplier: float, epsilon_at: Callable[[float], float], excess: float) -> float:
    """Return `multiplier` corrected for an epsilon that is `excess` above the target."""
    ratio = 1.001
    slope = (epsilon_at(multiplier * ratio) - epsilon_at(multiplier)) / math.log(ratio)
    if not (math.isfinite(excess) and math.isfinite(slope) and slope < 0.0):
        return multiplier
    return multiplier * math.exp(min(max(-excess / slope, -0.1), 0.1))


def _round_up(value: float) -> float:
    scale = 10.0 ** (_DIGITS - 1 - math.floor(math.log10(value)))
    rounded = math.ceil(value * scale * (1.0 - 1e-12)) / scale
    return float(f"{rounded:.{_DIGITS}g}")


def _largest(epsilon_at: Callable[[int, float], float], target: float, high: int, message: str) -> int:
    """Return the largest number in 1..high whose reported epsilon is at most the target; epsilon grows with it."""

    def coarse(value: int) -> float:
        return epsilon_at(value, SEARCH_DISCRETIZATION)

    if epsilon_at(1, REPORT_DISCRETIZATION) > target:
        raise Refused(message)
    found = _bisect(coarse, target, high)
    found = _bisect(coarse, target + coarse(found) - epsilon_at(found, REPORT_DISCRETIZATION), high)
    while epsilon_at(found, REPORT_DISCRETIZATION) > target:
        found -= 1
    return found


def _bisect(epsilon_at: Callable[[int], float], target: float, high: int) -> int:
    """Return the largest number in 1..high with epsilon_at(number) <= target, or 1."""
    good = 1
    # Doubling from below keeps away from compositions far above the target, which are slow and large.
    while good < high and epsilon_at(min(2 * good, high)) <= target:
        good = min(2 * good, high)
    bad = min(2 * good, high + 1)
    while bad - good > 1:
        middle = (good + bad) // 2
        good, bad = (middle, bad) if epsilon_at(middle) <= target else (good, middle)
    return good
