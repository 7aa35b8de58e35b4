"""Whether the rows of a batch are independent, checked on synthetic rows: by gradients and by exchange."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from sfumato.base import Refused
from sfumato.norms.contract import Autocast, LossFn, per_example, refuse_unmeasured
from sfumato.norms.layout import Axis, Layout, Layouts
from sfumato.norms.synthetic import batch_size
from sfumato.norms.tape import Call, Slot, Tape


def check_rows_apart(
    model: Any, loss_fn: LossFn, batch: Any, parameters: Mapping[str, Tensor], layouts: Layouts, context: Autocast
) -> tuple[Layouts, set[str]]:
    """Back-propagate each row alone; return the layouts, entries' order settled, and the parameters reached.

    Raises:
        Refused: a row's loss has a gradient at another row's entries, or a parameter's use has no rule.
    """
    count = batch_size(batch)
    arrivals: list[tuple[Slot, Tensor]] = []
    orders: dict[int, _Order] = {}
    fired: set[str] = set()
    tape = Tape(parameters, layouts, count, observe=lambda slot, grad: arrivals.append((slot, grad)))
    batch = pytree.tree_map(lambda t: t.requires_grad_() if _is_float(t) else t, batch)
    inputs = [leaf for leaf in pytree.tree_leaves(batch) if _is_float(leaf)]
    with tape, context():
        losses = per_example(loss_fn(model, batch), count)
        if not losses.requires_grad:
            raise Refused("the loss does not depend on any trainable parameter.")
        tape.replaying = True
        for row in range(count):
            wanted = [tape.anchor, *inputs, *parameters.values()]
            grads = torch.autograd.grad(losses[row], wanted, retain_graph=True, allow_unused=True)
            refuse_unmeasured(tape.unruled, dict(zip(parameters, grads[1 + len(inputs) :], strict=True)))
            for slot, grad in arrivals:
                fired |= tape.tracked.names(slot.call.operands)
                orders.setdefault(slot.call.position, _Order(slot.call, count)).see(grad, row)
            arrivals.clear()
            for grad in grads[1 : 1 + len(inputs)]:
                if grad is not None and bool(torch.cat([grad[:row], grad[row + 1 :]]).ne(0).any()):
                    raise _leak(row, "the inputs")
    lost = [slot.call.label for slot in tape.slots if slot.call.name.endswith("_") and not slot.fired]
    if lost:
        raise Refused(f"{lost[0]}: the result of an in-place function must be used, as in x = x.add_(p).")
    calls = list(layouts.calls)
    for position, order in orders.items():
        calls[position] = (*calls[position][:2], order.axis())
    return Layouts(tuple(calls)), fired


class _Order:
    """Whether the entries of an example follow each other or are interleaved, from where gradients arrive."""

    def __init__(self, call: Call, count: int) -> None:
        self._call = call
        self._count = count
        self._possible = [Axis(call.layout.dim), Axis(call.layout.dim, interleaved=True)]
        self._single = False

    def see(self, grad: Tensor, row: int) -> None:
        self._single = grad.shape[self._call.layout.dim] == self._count
        others = [other for other in range(self._count) if other != row]
        layouts = [Layout(axis, self._count) for axis in self._possible]
        self._possible = [lay.axis for lay in layouts if not bool(lay.to_rows(grad)[others].ne(0).any())]
        if not self._possible:
            raise _leak(row, self._call.label)

    def axis(self) -> Axis:
        if len(self._possible) > 1 and not self._single:
            raise Refused(f"{self._call.label}: no gradient arrives, so the order of the examples cannot be told.")
        return self._possible[0]


def _leak(row: int, label: str) -> Refused:
    return Refused(
        f"the loss of row {row} has a gradient at other rows in {label}: rows depend on each other (a loss across "
        "examples, or a layer that mixes the batch), so clipping per example bounds nothing. Contrastive losses need a "
        "group or pair unit."
    )


def _is_float(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) and leaf.is_floating_point()


def check_exchange(model: Any, loss_fn: LossFn, batch: Any, context: Autocast) -> None:
    """Exchange each row in turn; with equal random states every other row's loss must stay.

    Raises:
        Refused: another row's loss moves.
    """

    def exchanged(leaf: Any, row: int) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        changed = leaf.detach().clone()
        if leaf.is_floating_point():
            changed[row] = 3 * changed[row] + 1
        elif leaf.dim() > 1:  # a row of another length
            changed[row] = leaf[row - 1]
        else:
            changed[row] = 1 - changed[row]
        return changed

    def losses(variant: Any) -> Tensor:
        torch.manual_seed(0)
        with context(), torch.no_grad():
            return loss_fn(model, variant).double()

    before = losses(batch)
    for row in range(len(before)):
        after = losses(pytree.tree_map(partial(exchanged, row=row), batch))
        moved = (before - after).abs() > 1e-3 * (1e-3 + before.abs())
        moved[row] = False
        if bool(moved.any()):
            raise Refused(
                "the loss of a row changes when another row's input changes: rows depend on each other (a batch "
                "statistic, hard negatives, a queue), so clipping per example bounds nothing."
            )
