"""The path that a forward pass takes: every call of a torch function, with what decides whose entries it returns.

Where the entries of an example are is certified for a path (`certify`). At run time the tape compares each call with
the certified paths, to the letter: function, plain arguments, shapes of the results, what Python gets to see of values,
and what is addressed by values (`addressing`). A forward pass that leaves them is not measured jointly.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sfumato.base import Refused
from sfumato.norms.addressing import INSIDE, addressed
from sfumato.norms.contents import Raised, digest, tensors_in
from sfumato.norms.layout import Axis, Layouts
from sfumato.norms.memory import storage as storage_of
from sfumato.norms.memory import writes
from sfumato.norms.selections import Looked, names, selects

Head = tuple[str, Any, tuple, bytes | None]
"""Function, shapes of its results, plain arguments, and a digest of the values of the batch that Python gets to see."""

Visit = tuple[str, Any, tuple, bytes | None, Looked]
"""One call: its head, and what it addresses by values."""

_METADATA = names(
    "size dim ndimension nelement numel stride storage_offset element_size get_device type has_names dense_dim "
    "sparse_dim result_type can_cast promote_types dim_order retain_grad register_hook backward "
    "__len__ __hash__ __get__ __set__ __dir__"
)
"""What does not depend on the values of dense tensors."""

_EXPOSES = names(
    "__array__ numpy __dlpack__ data_ptr const_data_ptr untyped_storage storage _typed_storage apply_ map_ map2_ "
    "__reduce_ex__ __reduce__ __getstate__ share_memory_"
)
"""What gives Python the memory of a tensor, or each of its values."""

_PLAIN = (int, float, complex, bool, str, bytes, type(None), torch.dtype)


class OffPath(Refused):
    """The forward pass is not on a path that was certified for this number of rows."""


class Sight:
    """Turns the calls of one forward pass into what is compared of them.

    Everything by which values of a tensor reach Python is compared, for it may decide anything that follows: numbers
    and text that a call returns, and the memory of a tensor where a call hands it out. What is written later into
    memory that is shared so (with numpy, say) is compared too, when it is written.
    """

    def __init__(self) -> None:
        self._shared: dict[int, Any] = {}  # address -> storage; holding it keeps the address its own
        self._told: set[tuple[str, bytes]] = set()

    def head(self, name: str, args: tuple, kwargs: dict[str, Any], out: Any) -> Head | None:
        """Return what is compared of a call; None for one that returns no tensor and reads no value."""
        if "." in name:  # an overload of an operator
            name = name.partition(".")[0]
        if isinstance(out, Raised):
            return name, out.kind, (), None
        read = self._read(name, args, kwargs, out)
        if read is not None:
            self._told.add((name, read))
        if isinstance(out, Tensor):
            shapes: Any = out.shape
        elif name == "__setitem__":
            shapes = args[0].shape
        elif isinstance(out, (tuple, list)) and not isinstance(out, torch.Size):
            shapes = tuple(item.shape for item in out if isinstance(item, Tensor)) or None
        else:
            shapes = None
        if shapes is None:
            return None if read is None else (name, None, (), read)
        plain = tuple(_plain(value) for value in args if not isinstance(value, Tensor))
        if kwargs:
            plain += tuple((key, _plain(value)) for key, value in kwargs.items() if not isinstance(value, Tensor))
        return name, shapes, plain, read

    def tells_more(self, name: str, args: tuple, kwargs: dict[str, Any], out: Any) -> bool:
        """Return whether values reach Python by a call of the backward pass that did not in the forward pass: what is
        computed again there (gradient checkpointing) reads the same.
        """
        name = name.partition(".")[0]
        if isinstance(out, Raised):
            return False
        read = self._read(name, args, kwargs, out)
        return read is not None and (name, read) not in self._told

    def _read(self, name: str, args: tuple, kwargs: dict[str, Any], out: Any) -> bytes | None:
        kind = _kind(name)
        if kind == "exposes" or (name == "__get__" and isinstance(out, dict)):
            return self._memory(name, args)
        if kind == "writes" or (kwargs and "out" in kwargs):
            return self._written(args, kwargs)
        if kind == "metadata" or out is None or isinstance(out, (Tensor, torch.Size)):
            return None
        parts = [item for item in out if not isinstance(item, Tensor)] if isinstance(out, (tuple, list)) else [out]
        told = [part for part in parts if isinstance(part, (*_READABLE, np.ndarray)) and part is not None]
        return digest(*told) if told and any(True for _ in tensors_in((args, kwargs))) else None

    def _memory(self, name: str, args: tuple) -> bytes:
        """Return a digest of the memory that a call hands out, and take note of it."""
        with torch._C.DisableTorchFunction():
            storage = storage_of(args[0])
            if storage is None:
                return digest(args[0])
            self._shared[storage.data_ptr()] = storage
            if name in ("numpy", "__array__", "__dlpack__", "apply_", "map_", "map2_"):
                return digest(args[0])
            whole = torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage)
            return digest(whole)

    def _written(self, args: tuple, kwargs: dict[str, Any]) -> bytes | None:
        """Return a digest of what was written into shared memory; None where the memory is not known to be shared."""
        found = []
        with torch._C.DisableTorchFunction():
            for target in tensors_in((args[:1], kwargs.get("out"))):
                storage = storage_of(target)
                if storage is None:
                    continue
                fixed = storage.device.type == "cpu" and not storage.resizable()  # it is numpy's, or lent to it
                if fixed or storage.data_ptr() in self._shared:
                    found.append(target)
        return digest(*found) if found else None


@lru_cache(maxsize=4096)
def _kind(name: str) -> str:
    """Return what a function does beside returning tensors."""
    if name in _EXPOSES:
        return "exposes"
    if writes(name):
        return "writes"
    of_shape = name in _METADATA or (name.startswith(("is_", "sym_")) and name != "is_nonzero")
    return "metadata" if of_shape else "other"


_READABLE = (int, float, complex, bool, str, bytes, tuple, list, dict)


def _plain(value: Any) -> Any:
    """Return a plain argument as it is compared: arrays by a digest, what is not plain by its type."""
    if isinstance(value, float) and value != value:
        return "nan"
    if isinstance(value, _PLAIN):
        return value
    if isinstance(value, slice):
        return "slice", _plain(value.start), _plain(value.stop), _plain(value.step)
    if isinstance(value, (tuple, list)):
        return tuple(_plain(item) for item in value)
    if isinstance(value, (np.ndarray, np.generic)):
        return digest(np.asarray(value))
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
        self._sight = Sight()
        self._place = 0
        self._left: str | None = None
        self._addressed: set[tuple] = set()  # heads of calls that may address by values

    def step(self, name: str, args: tuple, kwargs: dict[str, Any], out: Any) -> None:
        """Take in one call and its result.

        Raises:
            OffPath: no path goes on like this; again at every later call, for a model may catch it.
        """
        if self._left is not None:
            raise OffPath(self._left)
        head = self._sight.head(name, args, kwargs, out)
        if head is None:
            return
        place, self._place = self._place, self._place + 1
        if selects(head[0]):
            self._addressed.add(head[:3])
        looked: dict[bool, Looked] = {}

        def look(leads: bool) -> Looked:
            if leads not in looked:
                looked[leads] = addressed(head[0], args, kwargs, out, self._num_rows, leads)
            return looked[leads]

        alive = [path for path in self._alive if self._goes_on(path, place, head, look)]
        if not alive:
            self.leave(name)
        self._alive = alive

    def _goes_on(self, path: Path, place: int, head: Head, look: Callable[[bool], Looked]) -> bool:
        if place >= len(path.visits):
            return self._open_end
        *known, wanted = path.visits[place]
        if tuple(known) != head:
            return False
        return wanted == INSIDE or wanted == look(not isinstance(wanted, bytes))

    def backward(self, name: str, args: tuple, kwargs: dict[str, Any], out: Any) -> None:
        """Take in one call of the backward pass (a hook, a function of the user's) and its result.

        Raises:
            OffPath: it gives Python a value, which might decide for all rows, or addresses by values as no call of the
                forward pass does.
        """
        if torch._C._current_graph_task_id() == -1:
            return
        if self._sight.tells_more(name, args, kwargs, out):
            raise OffPath(f"a value is read in the backward pass (by {name}): what it decides is not known.")
        if selects(name):
            head = self._sight.head(name, args, kwargs, out)
            known = head is None or head[:3] in self._addressed  # as where activations are computed again
            if not known and addressed(name, args, kwargs, out, self._num_rows, leads=False) is not None:
                raise OffPath(f"entries are selected by values in the backward pass (by {name}): whose is not known.")

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
