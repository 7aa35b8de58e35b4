"""Which records a step sees. numpy only; a draw is a function of a key, so nothing about it has to be saved."""

from sfumato.sampling.fixed import FixedSize, FullBatch
from sfumato.sampling.poisson import Poisson

Sampler = Poisson | FixedSize | FullBatch

__all__ = ["FixedSize", "FullBatch", "Poisson", "Sampler"]
