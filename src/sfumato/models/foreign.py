"""Models of other libraries raise anything where sizes or classes do not suit: a start that fails names its model."""

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from sfumato.base import BadInput, SfumatoError
from sfumato.base.reason import named

P = ParamSpec("P")
T = TypeVar("T")
_NAMES = ("init", "size", "kind")  # of the argument that says which model it is


def names_the_model(start: Callable[P, T]) -> Callable[P, T]:
    """Let a function that makes a model, and runs it on made-up rows, raise BadInput for whatever the model raises.

    No private row comes near it: what the model says of its made-up rows may be shown.
    """

    @functools.wraps(start)
    def started(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return start(*args, **kwargs)
        except (SfumatoError, MemoryError, ModuleNotFoundError):  # sentences already
            raise
        except Exception as error:
            which = next((kwargs[name] for name in _NAMES if kwargs.get(name)), args[0] if args else "the model")
            raise BadInput(
                f"{which} cannot be made and run with these settings (--image-size, --max-tokens): {named(error)}."
            ) from error

    return started
