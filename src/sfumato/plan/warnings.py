"""Sentences that a user should hear before training: what is allowed, and rarely what was meant."""

import math
from typing import Any

from sfumato.base import Refused
from sfumato.base.rounding import upper

HIGH_EPSILON = 10.0
LOW_NOISE = 0.3
HARDLY_ANY_NOISE = 1e-3  # a step that shows a record costs epsilon 500,000 and more
SMALL_BATCH = 8.0
FEW_PARAMETERS = 1000
"""Stands in for the number of trainable parameters where it is not known: fewer than any model here has."""


def find(
    *,
    delta: float,
    num_records: int | None,
    batch_size: float,
    cap: int | None,
    steps: int,
    sampling_prob: float,
    noise_multiplier: float | None,
    epsilon: float | None,
    signal_to_noise: float | None,
    num_parameters: int | None,
    caution: str | None = None,
) -> list[str]:
    """Return the warnings for a plan's public numbers; None stands for what is not known. `caution` is the unit's
    own.
    """
    found = [_delta(delta, num_records), _epsilon(epsilon), _noise(noise_multiplier)]
    found += [_sampling(batch_size, sampling_prob), _cap(cap, batch_size)]
    found += [_signal(signal_to_noise, steps, num_parameters), caution]
    return [sentence for sentence in found if sentence]


def epsilon_of(plan: Any) -> float | None:
    """Return the plan's epsilon, None where it has none."""
    try:
        return plan.epsilon()
    except Refused:
        return None


def _delta(delta: float, num_records: int | None) -> str | None:
    # delta = 1/N comes back from JSON and from arithmetic a last bit lower
    if num_records is None or delta * num_records < 1.0 - 1e-9:
        return None
    return (
        f"delta {upper(delta)} is not below 1/N = {1.0 / num_records:.3g}: publishing one whole record, picked at "
        "random, would satisfy it. Take 1/(10 N) or less."
    )


def _epsilon(epsilon: float | None) -> str | None:
    if epsilon is None or epsilon < HIGH_EPSILON:
        return None
    return f"epsilon {upper(epsilon)} is {HIGH_EPSILON:g} or more: alone it promises almost nothing to a record."


def _noise(noise_multiplier: float | None) -> str | None:
    if noise_multiplier is None or noise_multiplier >= LOW_NOISE:
        return None
    if noise_multiplier == 0.0:
        return "noise_multiplier is 0: nothing is private."
    return (
        f"noise multiplier {noise_multiplier:.3g} is below {LOW_NOISE}: a step in which a record takes part shows it "
        "almost plainly, and all protection rests on the sampling."
    )


def _sampling(batch_size: float, sampling_prob: float) -> str | None:
    if sampling_prob > 0.5:
        return f"a record is in {sampling_prob:.0%} of all steps: sampling hides next to nothing."
    if batch_size < SMALL_BATCH:
        return f"the expected batch size is {batch_size:g}: many draws are nearly empty and add noise only."
    return None


def _cap(cap: int | None, batch_size: float) -> str | None:
    if cap is None or cap >= batch_size:
        return None
    return f"the cap {cap} is below the expected batch size {batch_size:g}: most draws are cut."


def _signal(signal_to_noise: float | None, steps: int, num_parameters: int | None) -> str | None:
    """Over T steps agreeing gradients add up to T, noise to sqrt(T): below 1 the noise wins even then."""
    if signal_to_noise is None or signal_to_noise * math.sqrt(steps) >= 1.0:
        return None
    model = f"{num_parameters:,}" if num_parameters else f"even {FEW_PARAMETERS:,}"
    return (
        f"signal-to-noise {signal_to_noise:.2g} a step at {model} trainable parameters: over all {steps:,} steps the "
        "noise outweighs the largest possible gradient. Take larger batches, fewer trainable parameters, more records."
    )
