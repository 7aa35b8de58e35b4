"""Whether a pass without the tape follows a certified path: an ordinary forward pass, with autograd's backward pass."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch.overrides import TorchFunctionMode

from sfumato.norms.composite import COMPOSITE
from sfumato.norms.path import Path, Visit, Walk, visit


class _Calls(TorchFunctionMode):
    """Calls `see` with every call of a torch function and its result."""

    def __init__(self, see: Callable[[str, tuple, dict[str, Any], Any], None]) -> None:
        super().__init__()
        self._see = see

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if func in COMPOSITE:
            with self:
                return COMPOSITE[func](*args, **kwargs)
        out = func(*args, **kwargs)
        self._see(getattr(func, "__name__", ""), args, kwargs, out)
        return out


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
    """Add to `visits` the path that the forward pass inside takes."""

    def see(name: str, args: tuple, kwargs: dict[str, Any], out: Any) -> None:
        seen = visit(name, args, kwargs, out, num_rows)
        if seen is not None:
            visits.append(seen)

    with _Calls(see):
        yield
