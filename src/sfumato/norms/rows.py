"""Whether the gradients of rows stay apart, at the inputs and at every use of a parameter, on made-up rows."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from sfumato.base import Refused
from sfumato.norms.contract import Autocast, Staged, per_example, refuse_unmeasured
from sfumato.norms.layout import Axis, Layout, Layouts
from sfumato.norms.path import Path
from sfumato.norms.synthetic import batch_size
from sfumato.norms.tape import Call, Slot, Tape


def check_rows_apart(
    model: Any, loss: Staged, batch: Any, parameters: Mapping[str, Tensor], path: Path, context: Autocast
) -> tuple[Path, set[str]]:
    """Back-propagate sets of rows by themselves; return the path, entries' order settled, and the parameters reached.

    The sets are those of the rows whose number has a binary digit 0 or 1 at one place: they part any two rows.

    Raises:
        Refused: the loss of a row has a gradient at another row's entries, or a parameter's use has no rule.
    """
    try:
        return _check(model, loss, batch, parameters, path, context, inputs=True)
    except RuntimeError as error:
        if "requires grad" not in str(error):  # as `numpy()` and functions in place say of tensors that require it
            raise
    return _check(model, loss, batch, parameters, path, context, inputs=False)


def _check(
    model: Any,
    loss: Staged,
    batch: Any,
    parameters: Mapping[str, Tensor],
    path: Path,
    context: Autocast,
    *,
    inputs: bool,
) -> tuple[Path, set[str]]:
    """Do `check_rows_apart`, looking at the gradients of `inputs` or not."""
    count = batch_size(batch)
    arrivals: list[tuple[Slot, Tensor]] = []
    orders: dict[int, _Order] = {}
    fired: set[str] = set()
    tape = Tape(parameters, [path], count, observe=lambda slot, grad: arrivals.append((slot, grad)))
    batch = pytree.tree_map(lambda t: t.detach().clone().requires_grad_(inputs) if _is_float(t) else t, batch)
    leaves = [leaf for leaf in pytree.tree_leaves(batch) if _is_float(leaf) and inputs]
    with tape, context():
        made = loss.rows(model, batch)
        tape.finish()
        losses = per_example(loss.finish(made), count)
        if not losses.requires_grad:
            raise Refused("the loss does not depend on any trainable parameter.")
        for rows in row_sets(count):
            wanted = [tape.anchor, *leaves, *parameters.values()]
            grads = torch.autograd.grad(losses[rows].sum(), wanted, retain_graph=True, allow_unused=True)
            refuse_unmeasured(tape.unruled, dict(zip(parameters, grads[1 + len(leaves) :], strict=True)))
            for slot, grad in arrivals:
                fired |= tape.tracked.names(slot.call.operands)
                orders.setdefault(slot.call.position, _Order(slot.call, count)).see(grad, rows)
            arrivals.clear()
            for grad in grads[1 : 1 + len(leaves)]:
                if grad is not None and bool(grad[~rows].ne(0).any()):
                    raise _leak("the inputs")
    lost = [slot.call.label for slot in tape.slots if slot.call.name.endswith("_") and not slot.fired]
    if lost:
        raise Refused(f"{lost[0]}: the result of an in-place function must be used, as in x = x.add_(p).")
    calls = list(path.layouts.calls)
    for position, order in orders.items():
        calls[position] = (*calls[position][:2], order.axis())
    return replace(path, layouts=Layouts(tuple(calls))), fired


def row_sets(count: int) -> list[Tensor]:
    """Return sets of rows, bool (count,), of which for any two rows one holds the first and not the second."""
    if count == 1:
        return [torch.ones(1, dtype=torch.bool)]
    places = torch.arange(count)
    digits = [(places >> place) & 1 == 1 for place in range((count - 1).bit_length())]
    return [side for digit in digits for side in (digit, ~digit)]


class _Order:
    """Whether the entries of an example follow each other or are interleaved, from where gradients arrive."""

    def __init__(self, call: Call, count: int) -> None:
        self._call = call
        self._count = count
        self._possible = [Axis(call.layout.dim), Axis(call.layout.dim, interleaved=True)]
        self._single = False

    def see(self, grad: Tensor, rows: Tensor) -> None:
        """Take in a gradient of the losses of `rows`, bool (N,)."""
        self._single = grad.shape[self._call.layout.dim] == self._count
        layouts = [Layout(axis, self._count) for axis in self._possible]
        others = (~rows).nonzero().squeeze(1)
        self._possible = [lay.axis for lay in layouts if not bool(lay.to_rows(grad)[others].ne(0).any())]
        if not self._possible:
            raise _leak(self._call.label)

    def axis(self) -> Axis:
        if len(self._possible) > 1 and not self._single and self._count > 1:
            raise Refused(f"{self._call.label}: no gradient arrives, so the order of the examples cannot be told.")
        return self._possible[0]


def _leak(label: str) -> Refused:
    return Refused(
        f"the loss of a row has a gradient at other rows in {label}: rows depend on each other (a loss across "
        "examples, or a layer that mixes the batch), so clipping per example bounds nothing. Contrastive losses need a "
        "group or pair unit."
    )


def _is_float(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) and leaf.is_floating_point()
