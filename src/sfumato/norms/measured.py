"""What certification found out about a model and its loss: the parameters, and the paths that are certified."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from sfumato.base import BadInput, Refused
from sfumato.norms.path import Path
from sfumato.norms.scratch import Scratch


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What `prepare` found out about a model and its loss.

    Attributes:
        names: the trainable parameters, all of which are measured exactly.
        certified: number of rows -> the paths certified for it; certifies at the first call.
        singles: paths that made-up rows took by themselves.
        sample: number of rows -> a batch of that many made-up rows that take a certified path.
        more: seed -> other made-up rows, batches of one each.
        repeat: holds the certified paths to other made-up rows, by their seed.
        unused: trainable parameters that no gradient reaches (only with `unused="zero"`).
        scratch: memory that goes from one micro-batch to the next.
    """

    names: tuple[str, ...]
    certified: Callable[[int], tuple[Path, ...]] = field(compare=False, repr=False)
    singles: tuple[Path, ...] = field(default=(), compare=False, repr=False)
    sample: Callable[[int], Any] = field(default=lambda count: None, compare=False, repr=False)
    more: Callable[[int], list[Any]] = field(default=lambda seed: [], compare=False, repr=False)
    repeat: Callable[[int], None] = field(default=lambda seed: None, compare=False, repr=False)
    unused: tuple[str, ...] = ()
    scratch: Scratch = field(default_factory=Scratch, compare=False, repr=False)

    def parameters(self, model: nn.Module) -> dict[str, nn.Parameter]:
        """Return the trainable parameters of `model` by name, ties once.

        Raises:
            BadInput: they are not those that were measured.
        """
        now = trainable(model)
        if tuple(now) != self.names:
            changed = sorted(set(now) ^ set(self.names))
            raise BadInput(f"trainable parameters changed since they were measured: {', '.join(changed[:5])}.")
        refuse_unmeasurable(now)
        return now


def refuse_unmeasurable(parameters: Mapping[str, nn.Parameter]) -> None:
    """Raise for parameters that no rule measures, whatever they are used in.

    Raises:
        Refused: naming one that is complex, or sharded over processes (a DTensor, as FSDP2 makes).
    """
    for name, parameter in parameters.items():
        if parameter.is_complex():
            raise Refused(
                f"{name} is complex: hold its real and imaginary part in two parameters (torch.view_as_real)."
            )
        if any(kind.__name__ == "DTensor" for kind in type(parameter.data).__mro__):
            raise Refused(f"{name} is sharded (a DTensor), which is not supported: keep the model whole on every rank.")


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters of `model` that require a gradient, by name, tied ones once."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
