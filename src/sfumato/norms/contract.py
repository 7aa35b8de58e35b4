"""What a loss must be: one value per example; and the guard that nothing reaches it unmeasured."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from sfumato.base import Refused

LossFn = Callable[[Any, Any], Tensor]
Combine = Callable[..., Tensor]
Autocast = Callable[[], AbstractContextManager]


@dataclass(frozen=True)
class Staged:
    """A loss in two stages: what the model makes of rows, and what is computed of that without any parameter.

    Attributes:
        rows: (model, batch) -> the losses (N,), or with `combine` a tuple of tensors that lead with N.
        combine: these tensors -> one loss for each row or unit of rows.
    """

    rows: Callable[[Any, Any], Any]
    combine: Combine | None = None

    def finish(self, made: Any) -> Tensor:
        """Return the losses from what `rows` made."""
        return made if self.combine is None else self.combine(*made)

    def __call__(self, model: Any, batch: Any) -> Tensor:
        return self.finish(self.rows(model, batch))


class Ended(Exception):
    """The model or its loss asked the process to end."""


@contextmanager
def not_ended() -> Iterator[None]:
    """Let code of the model (its forward pass, or functions and hooks in its backward pass) end no process.

    Raises:
        Ended: instead of SystemExit and all that is no Exception, but for KeyboardInterrupt: it is the user's.
    """
    try:
        yield
    except (Exception, KeyboardInterrupt):
        raise
    except BaseException as error:
        raise Ended(type(error).__name__) from None


def per_example(losses: Any, num_examples: int) -> Tensor:
    """Return `losses` if it is one value per example.

    Raises:
        Refused: it is anything else, such as a reduced loss.
    """
    if not isinstance(losses, Tensor) or losses.shape != (num_examples,):
        got = tuple(losses.shape) if isinstance(losses, Tensor) else type(losses).__name__
        raise Refused(
            f"the loss must be one value per example, shape ({num_examples},), got {got}: compute it with "
            "reduction='none' and average within each example only."
        )
    return losses


def refuse_unmeasured(unruled: Mapping[str, str], grads: Mapping[str, Tensor | None]) -> None:
    """Raise for every parameter that autograd reached past the rules.

    Raises:
        Refused: naming the parameter and the function that has no rule.
    """
    for name, grad in grads.items():
        if grad is not None:
            function = unruled.get(name, "a function outside torch's dispatch")
            raise Refused(
                f"{name} (used in {function}): no rule measures its gradient per example. Freeze it with "
                "requires_grad_(False), write its use with linear, matmul, expand or elementwise functions, or "
                "register a rule with sfumato.norms.register_rule."
            )
