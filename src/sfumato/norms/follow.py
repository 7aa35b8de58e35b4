"""Whether a pass without the tape follows a certified path: an ordinary forward pass, with autograd's backward pass."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch._ops import OpOverload
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from sfumato.base import Refused
from sfumato.norms.addressing import INSIDE, addressed, hidden, of_one_row
from sfumato.norms.composite import COMPOSITE
from sfumato.norms.contents import Raised
from sfumato.norms.path import Path, Sight, Visit, Walk


class Watch(TorchFunctionMode):
    """Sees every call of a torch function by the model; subclasses say in `call` what they make of it.

    A dispatch mode that is active (on draws, say) calls what it sees once more; these calls are passed on.

    Attributes:
        busy: whether a function that is seen is at work.
    """

    busy = False
    _depth = 0

    def __enter__(self) -> Any:
        self._depth = torch._C._len_torch_dispatch_stack()
        return super().__enter__()

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if isinstance(func, OpOverload) and torch._C._len_torch_dispatch_stack() < self._depth:
            return func(*args, **kwargs)
        if func in COMPOSITE:
            with self:
                return COMPOSITE[func](*args, **kwargs)
        self.busy = True
        try:
            return self.call(func, getattr(func, "__name__", ""), args, kwargs)
        finally:
            self.busy = False

    def call(self, func: Callable, name: str, args: tuple, kwargs: dict[str, Any]) -> Any:
        """Return what a call returns."""
        raise NotImplementedError


See = Callable[[str, tuple, dict[str, Any], Any], None]


def called(func: Callable, name: str, args: tuple, kwargs: dict[str, Any], see: See) -> Any:
    """Call a function and show what came of it to `see`."""
    try:
        out = func(*args, **kwargs)
    except Refused:
        raise
    except Exception as error:
        with suppress(Refused):  # a path that is left stays left
            see(name, args, kwargs, Raised(type(error).__name__))
        raise
    see(name, args, kwargs, out)
    return out


class Unseen(TorchDispatchMode):
    """Refuses what no watch over torch functions shows, in scripted functions or where their dispatch is switched off:
    values that are read, and calls that address by values.

    It is needed at certification alone: all that a model reads on a certified path is compared, so on it the model
    comes to no other calls later, seen or not.

    Args:
        watch: of the functions that are seen.
        made: called with the results of every function that is not.
    """

    def __init__(self, watch: Watch, made: Callable[[str, Any], None] | None = None) -> None:
        super().__init__()
        self._watch, self._made = watch, made
        self._refused: Refused | None = None

    def __exit__(self, *error: Any) -> None:
        """Refuse here again: a model may catch what is raised inside it, and TorchScript wraps it."""
        super().__exit__(*error)
        if self._refused is not None:
            raise self._refused

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if self._watch.busy or torch._C._current_graph_task_id() != -1:  # or in a backward pass
            return out
        name = func.overloadpacket.__name__
        values = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape} & set(func.tags)
        if values or name == "_nnz" or hidden(name):
            self._refused = Refused(
                f"a value decides in {name}, called where torch does not show it: in a scripted or traced function, or "
                "with the dispatch of torch functions switched off. What depends on it could not be compared at every "
                "step; write it in plain Python."
            )
            raise self._refused
        if self._made is not None:
            self._made(name, out)
        return out


class _Calls(Watch):
    """Calls `see` with every call of a torch function and its result."""

    def __init__(self, see: See) -> None:
        super().__init__()
        self._see = see

    def call(self, func: Callable, name: str, args: tuple, kwargs: dict[str, Any]) -> Any:
        return called(func, name, args, kwargs, self._see)


@contextmanager
def following(paths: Sequence[Path], num_rows: int) -> Iterator[None]:
    """Hold the forward pass inside to paths that were certified for `num_rows` rows.

    Raises:
        OffPath: at the first call that is on none of them, or at the end.
    """
    walk = Walk(paths, num_rows)
    with _Calls(walk.step):
        yield
    walk.finish()


@contextmanager
def noting(visits: list[Visit], num_rows: int) -> Iterator[None]:
    """Add to `visits` the path that the forward pass of one row inside takes.

    Raises:
        Refused: the model reads or addresses values where torch does not show it.
    """

    sight = Sight()

    def see(name: str, args: tuple, kwargs: dict[str, Any], out: Any) -> None:
        head = sight.head(name, args, kwargs, out)
        if head is not None:
            name, *_ = head
            looked = INSIDE if of_one_row(name) else addressed(name, args, kwargs, out, num_rows, leads=True)
            visits.append((*head, looked))

    calls = _Calls(see)
    with Unseen(calls), calls:
        yield
