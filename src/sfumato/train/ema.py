"""Moving average of the weights: taken of released weights only, it is post-processing and costs nothing."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from sfumato.base import BadInput


class WeightAverage:
    """Keeps avg <- decay avg + (1 - decay) weights over the trainable parameters.

    Call `update` after `optimizer.step()`: what it sees is then a function of released gradients.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        if not 0.0 < decay < 1.0:
            raise BadInput(f"ema_decay must lie in (0, 1), got {decay}.")
        self._decay = decay
        self.weights = {name: p.detach().clone() for name, p in _trained(model).items()}

    def update(self, model: nn.Module) -> None:
        """Move the average towards the model's weights."""
        with torch.no_grad():
            for name, p in _trained(model).items():
                self.weights[name].lerp_(p, 1.0 - self._decay)

    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Take over a saved average."""
        for name, average in self.weights.items():
            average.copy_(weights[name])

    @contextmanager
    def applied(self, model: nn.Module) -> Iterator[None]:
        """Let the model have the averaged weights inside the `with`."""
        before = {name: p.detach().clone() for name, p in _trained(model).items()}
        put(model, self.weights)
        try:
            yield
        finally:
            put(model, before)


def put(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Copy the weights into the model's parameters of the same names."""
    with torch.no_grad():
        for name, p in model.named_parameters():
            if name in weights:
                p.copy_(weights[name])


def _trained(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: p for name, p in model.named_parameters() if p.requires_grad}
