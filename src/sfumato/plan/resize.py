"""Samplers at another batch size."""

from dataclasses import replace

from sfumato.base import BadInput
from sfumato.plan.checks import whole
from sfumato.sampling import FixedSize, Poisson, Sampler


def resized(sampler: Sampler, batch_size: float) -> Sampler:
    """Return the sampler with another (expected) batch size and divisor; a cap stays.

    Where N is hidden, the sampling probability grows in proportion.

    Raises:
        BadInput: the sampler has no batch size, or this one is impossible.
    """
    if isinstance(sampler, Poisson):
        prob = sampler.prob * batch_size / sampler.divisor if sampler.num_records is None else None
        return replace(sampler, expected_batch_size=batch_size, sampling_prob=prob)
    if isinstance(sampler, FixedSize):
        return replace(sampler, batch_size=whole("batch_size", batch_size))
    raise BadInput("a full batch has no other size: use Poisson or FixedSize.")
