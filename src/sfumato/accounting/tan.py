"""Total Amount of Noise (Sander, Stock, Sablayrolles, ICML 2023): what a scaled-down simulation keeps fixed."""

import math

from sfumato.base import BadInput


def tan_eta(sampling_prob: float, steps: int, noise_multiplier: float) -> float:
    """Return eta, with eta^2 = q^2 T / (2 sigma^2): the amount of signal per noise over the whole training.

    Runs of equal T and equal sigma / batch have equal eta and, as long as training depends on the noise of the mean
    gradient only, equal loss curves. epsilon ~ eta^2 + 2 eta sqrt(log 1/delta) holds for sigma > 2 only; it is used
    nowhere here.

    >>> round(tan_eta(0.005606, 5708, 0.728), 3)
    0.411

    Raises:
        BadInput: the noise multiplier is not positive.
    """
    if not noise_multiplier > 0.0:
        raise BadInput(f"noise_multiplier must be positive, got {noise_multiplier}.")
    return sampling_prob * math.sqrt(steps / 2.0) / noise_multiplier
