"""The path that a forward pass takes: every call of a torch function, with what decides whose entries it returns.

Where the entries of an example are is certified for a path (`certify`). At run time the tape compares each call with
the certified paths, to the letter: function, plain arguments, shapes of the results, and what is addressed by values
(`addressing`). A forward pass that leaves them is not measured jointly.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from sfumato.base import Refused
from sfumato.norms.addressing import addressed
from sfumato.norms.layout import Axis, Layouts

Visit = tuple[Any, ...]
"""One call: function, shapes of its results, plain arguments, what it addresses by values."""

_READS = {"item", "tolist", "numpy", "equal", "allclose", "is_nonzero", "__contains__"}
_READS |= {"__bool__", "__int__", "__float__", "__complex__", "__index__"}
_PLAIN = (int, float, bool, str, type(None))


class OffPath(Refused):
    """The forward pass is not on a path that was certified for this number of rows."""


def visit(name: str, args: tuple, kwargs: dict[str, Any], out: Any, num_rows: int) -> Visit | None:
    """Return what is compared of a call; None for one that returns no tensor and reads no value.

    What is read into Python (`item`, `bool`) may decide anything that follows, so it is compared by value.
    """
    if name in _READS:
        return name, repr(out)
    if isinstance(out, Tensor):
        shapes: Any = out.shape
    elif name == "__setitem__":
        shapes = args[0].shape
    elif isinstance(out, (tuple, list)):
        shapes = tuple(item.shape for item in out if isinstance(item, Tensor))
        if not shapes:
            return None
    else:
        return None
    plain = tuple(_plain(value) for value in args if not isinstance(value, Tensor))
    if kwargs:
        plain += tuple((key, _plain(value)) for key, value in kwargs.items() if not isinstance(value, Tensor))
    return name, shapes, plain, addressed(name, args, kwargs, out, num_rows)


def _plain(value: Any) -> Any:
    """Return a plain argument as it is compared; what is not plain counts by its type."""
    if isinstance(value, _PLAIN):
        return value
    if isinstance(value, slice):
        return "slice", _plain(value.start), _plain(value.stop), _plain(value.step)
    if isinstance(value, (tuple, list)):
        return tuple(_plain(item) for item in value)
    return type(value).__name__


@dataclass(frozen=True, eq=False)
class Path:
    """A certified path: its calls in order, and where the examples are in those that touch a parameter."""

    visits: tuple[Visit, ...]
    layouts: Layouts


class Walk:
    """Compares one forward pass, call by call, with the certified paths of its number of rows.

    Args:
        paths: of which one must be followed.
        num_rows: N.
        open_end: whether calls on no parameter may follow behind the end of a path: what a unit of rows makes of its
            rows' losses.
    """

    def __init__(self, paths: Sequence[Path], num_rows: int, *, open_end: bool = False) -> None:
        self._open_end = open_end
        self._alive = list(paths)
        self._num_rows = num_rows
        self._place = 0
        self._left: str | None = None

    def step(self, name: str, args: tuple, kwargs: dict[str, Any], out: Any) -> None:
        """Take in one call and its result.

        Raises:
            OffPath: no path goes on like this; again at every later call, for a model may catch it.
        """
        if self._left is not None:
            raise OffPath(self._left)
        seen = visit(name, args, kwargs, out, self._num_rows)
        if seen is None:
            return
        place, self._place = self._place, self._place + 1
        alive = [path for path in self._alive if self._goes_on(path, place, seen)]
        if not alive:
            self.leave(name)
        self._alive = alive

    def _goes_on(self, path: Path, place: int, seen: Visit) -> bool:
        if place < len(path.visits):
            return path.visits[place] == seen
        return self._open_end

    def leave(self, name: str) -> None:
        """Leave all paths. Raises OffPath."""
        self._left = (
            f"the model takes another path here (in {name}) than on the made-up rows of {self._num_rows}, so it is not "
            "known which entries belong to which example."
        )
        raise OffPath(self._left)

    def axis(self, names: frozenset[str], function: str, position: int | None) -> Axis | None:
        """Return where a call's result carries the examples, None where it does not depend on the batch.

        Raises:
            OffPath: that is not known, or the paths that are left disagree.
        """
        try:
            found = {path.layouts.of(names, function, position) for path in self._alive}
        except Refused:
            found = set()
        if len(found) != 1:
            self.leave(function)
        return next(iter(found))

    def _past(self, path: Path) -> bool:
        return self._open_end and len(path.visits) < self._place

    def finish(self, *, whole: bool = True) -> None:
        """End the forward pass.

        Args:
            whole: whether a certified path must end here; a part of one may (embeddings, where a loss of them was
                certified).

        Raises:
            OffPath: no path ends here.
        """
        if whole:
            self._alive = [path for path in self._alive if len(path.visits) == self._place or self._past(path)]
        if self._left is not None or not self._alive:
            self.leave("the end")
