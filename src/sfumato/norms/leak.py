"""Which module lets one row of a batch reach another: forward hooks on synthetic rows, for a diagnosis only."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from sfumato.norms.contract import LossFn
from sfumato.norms.inspect import untouched

_ROWS = 13  # divides none of the usual numbers of tokens: 50, 77, 196, 197, 257, 576, ...


def first_leak(model: nn.Module, loss_fn: LossFn, make: Callable[[int], Any]) -> str | None:
    """Return the name of the first module, innermost first, whose output at other rows moves when row 0 is exchanged.

    Only outputs that lead with the rows, or with as many entries for each row, one row after the other, are looked at.
    None: no module's output does, so the rows meet in the loss, or where they cannot be told apart.
    """
    batch = make(_ROWS)
    before = _prints(model, loss_fn, batch)
    after = _prints(model, loss_fn, pytree.tree_map(_exchanged, batch))
    for (name, first), (other, second) in zip(before, after, strict=False):
        if name != other or first.shape != second.shape:
            return None  # another path for other values
        moved = (first - second).abs() > 1e-3 * (1e-3 + first.abs())
        if bool(moved[1:].any()):
            return name
    return None


def _exchanged(leaf: Any) -> Any:
    """Return the tensor with another first row: far away, or for integers the next row that differs, else zeros."""
    if not isinstance(leaf, Tensor):
        return leaf
    changed = leaf.detach().clone()
    if leaf.is_floating_point():
        changed[0] = 3 * changed[0] + 1
    else:
        others = [row for row in leaf if not torch.equal(row, leaf[0])]
        changed[0] = others[0] if others else torch.zeros_like(leaf[0])
    return changed


def _prints(model: nn.Module, loss_fn: LossFn, batch: Any) -> list[tuple[str, Tensor]]:
    """Return (module, numbers that stand for each row of its output (rows, 2)) in the order in which modules end."""
    found: list[tuple[str, Tensor]] = []

    def hook(name: str) -> Callable[[Any, Any, Any], None]:
        def look(module: Any, args: Any, output: Any) -> None:
            for tensor in pytree.tree_leaves(output):
                if isinstance(tensor, Tensor) and tensor.is_floating_point() and _leads(tensor):
                    found.append((name, _print(tensor.detach())))

        return look

    handles = [module.register_forward_hook(hook(name)) for name, module in model.named_modules() if name]
    try:
        with untouched(model):
            torch.manual_seed(0)
            with torch.no_grad():
                loss_fn(model, batch)
    finally:
        for handle in handles:
            handle.remove()
    return found


def _leads(tensor: Tensor) -> bool:
    return tensor.dim() > 0 and tensor.numel() > 0 and tensor.shape[0] % _ROWS == 0


def _print(tensor: Tensor) -> Tensor:
    """Return the length of each row, and its product with a fixed wave."""
    rows = tensor.double().reshape(_ROWS, -1)
    wave = torch.cos(torch.arange(rows.shape[1], dtype=rows.dtype, device=rows.device))
    return torch.stack([rows.norm(dim=1), rows @ wave], dim=1)
