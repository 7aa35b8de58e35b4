"""One rule per torch function: the per-example gradient of its parameters, from the gradient B of its result.

Legend: N examples, T positions, P output features, D input features.

| function | per-example gradient | source |
|---|---|---|
| linear, addmm, matmul with a weight | sum_t b_t a_t^T | Goodfellow 2015 |
| conv1d, conv2d | the same over unfolded patches, per group | Rochette et al. 2019 |
| embedding | b_t at the looked-up entry | Lee & Kifer 2021 |
| layer_norm, group_norm, rms_norm, batch_norm in eval | sum_t b_t * normalised input | chain rule |
| elementwise functions | gradient of the result, summed over what was broadcast | chain rule |
| expand, repeat, attention mask | B itself, summed over what was broadcast | chain rule |
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from sfumato.norms.factors import Rows, joined, pieces
from sfumato.norms.tape import INPUT, Call, Factor, Tape, register_rule, wide

Found = list[tuple[Tensor, Factor]]


@register_rule("linear")
def linear(tape: Tape, call: Call) -> Tensor:
    """y = x W^T + b."""
    x, weight, bias = call.bind("input", "weight", "bias")
    return _affine(tape, call, x, weight, bias, transposed=False)


@register_rule("addmm")
def addmm(tape: Tape, call: Call) -> Tensor:
    """y = b + x W, as in GPT-2's Conv1D."""
    bias, x, weight = call.bind("input", "mat1", "mat2")
    if call.kwargs.get("beta", 1) != 1 or call.kwargs.get("alpha", 1) != 1:
        raise call.refuse("addmm with alpha or beta has no rule; scale the operands instead.")
    return _affine(tape, call, x, weight, bias, transposed=True)


@register_rule("matmul", "mm", "__matmul__", "__rmatmul__")
def matmul(tape: Tape, call: Call) -> Tensor:
    """y = x W, or y = W x with a weight that mixes positions."""
    first, second = call.args[:2] if len(call.args) > 1 else call.bind("input", "other")
    if call.name == "__rmatmul__":
        first, second = second, first
    if call.is_tracked(second) and not call.is_tracked(first) and second.dim() == 2:
        return _affine(tape, call, first, second, None, transposed=True)
    if call.is_tracked(first) and not call.is_tracked(second) and first.dim() == 2 and second.dim() > 2:
        return _mixing(tape, call, first, second)
    raise call.refuse(
        "a product with a parameter that is not a matrix has no rule; use expand and elementwise products."
    )


def _affine(tape: Tape, call: Call, x: Tensor, weight: Any, bias: Any, transposed: bool) -> Tensor:
    if call.is_tracked(x):
        raise call.refuse("the input of a linear map is itself a parameter that was expanded over the batch.")
    measures_weight = call.is_tracked(weight)
    if measures_weight and weight.dim() != 2:
        raise call.refuse("a weight that is not a matrix has no rule; use a matrix, or elementwise products.")

    def gradients(out_grad: Tensor, saved: tuple[Tensor, ...]) -> Found:
        left = call.layout.to_tokens(wide(out_grad))
        found: Found = []
        if measures_weight:
            right = call.layout.to_tokens(tape.widen(saved[0]))
            pair = (right, left) if transposed else (left, right)
            found.append((weight, tape.outer(*pair, weight.shape)))
        if bias is not None and call.is_tracked(bias):
            found.append((bias, tape.rows(Rows.of_sums(left.sum(1).view(-1, *bias.shape), left))))
        return found

    return tape.tap(call, call.run(), (x,) if measures_weight else (), gradients)


def _mixing(tape: Tape, call: Call, weight: Tensor, x: Tensor) -> Tensor:
    def gradients(out_grad: Tensor, saved: tuple[Tensor, ...]) -> Found:
        left = call.layout.to_tokens(wide(out_grad).mT)
        right = call.layout.to_tokens(tape.widen(saved[0]).mT)
        return [(weight, tape.outer(left, right, weight.shape))]

    if call.layout.dim >= x.dim() - 2:
        raise call.refuse("the parameter multiplies along the batch dimension: examples are mixed.")
    return tape.tap(call, call.run(), (x,), gradients)


@register_rule("embedding")
def embedding(tape: Tape, call: Call) -> Tensor:
    """A table lookup: the gradient of a row is the sum of the gradients at its occurrences, none at `padding_idx`."""
    entries, table, padding = call.bind("input", "weight", "padding_idx")
    if call.bind("max_norm")[0] is not None or call.bind("scale_grad_by_freq")[0]:
        raise call.refuse("embedding with max_norm or scale_grad_by_freq changes the table or mixes examples.")
    padding = table.shape[0] + padding if padding is not None and padding < 0 else padding

    def gradients(out_grad: Tensor, saved: tuple[Tensor, ...]) -> Found:
        right = call.layout.to_tokens(wide(out_grad))
        left = call.layout.to_rows(saved[0]).flatten(1).long()
        if padding is not None:
            right = right.masked_fill((left == padding)[..., None], 0)
        return [(table, tape.outer(left, right, table.shape))]

    return tape.tap(call, call.run(), (entries,), gradients)


@register_rule("layer_norm", "rms_norm", "group_norm", "batch_norm")
def normalisation(tape: Tape, call: Call) -> Tensor:
    """y = normalised(x) * weight + bias; the normalised input is computed again by the function itself."""
    x = call.bind("input")[0]
    weight, bias = _affine_parameters(call)
    shape = (bias if weight is None else weight).shape
    measures_weight = weight is not None and call.is_tracked(weight)
    on_channels = call.name in ("group_norm", "batch_norm")
    normalised = _normalised(call)

    def reduced(rows: Tensor) -> Tensor:  # (n, entries, C, *space), or (n, entries, ..., *shape)
        return rows.sum([1, *range(3, rows.dim())] if on_channels else list(range(1, rows.dim() - len(shape))))

    def gradients(out_grad: Tensor, saved: tuple[Tensor, ...]) -> Found:
        rows = call.layout.to_rows(out_grad)
        inputs = call.layout.to_rows(saved[0]) if measures_weight else rows
        of_weight, of_bias = [], []
        for piece in pieces(rows, rows[0].numel()):
            grad = wide(rows[piece])
            of_bias.append(Rows.of_sums(reduced(grad), grad))
            if measures_weight:
                plain = normalised(wide(inputs[piece]).flatten(0, 1)).reshape(grad.shape).mul_(grad)
                of_weight.append(Rows.of_sums(reduced(plain), plain))
        found = [(weight, of_weight), (bias, of_bias)]
        return [(operand, tape.rows(joined(parts))) for operand, parts in found if parts and call.is_tracked(operand)]

    return tape.tap(call, call.run(), (x,) if measures_weight else (), gradients)


def _affine_parameters(call: Call) -> tuple[Any, Any]:
    places = {"layer_norm": (2, 3), "group_norm": (2, 3), "rms_norm": (2, None), "batch_norm": (3, 4)}[call.name]
    values = []
    for name, place in zip(("weight", "bias"), places, strict=True):
        given = call.args[place] if place is not None and len(call.args) > place else None
        values.append(call.kwargs.get(name, given))
    return values[0], values[1]


def _normalised(call: Call) -> Callable[[Tensor], Tensor]:
    """Return the same normalisation without its affine part; it computes in the precision of its input."""
    width = {"layer_norm": 2, "group_norm": 2, "rms_norm": 2, "batch_norm": 3}[call.name]
    args = call.detach(call.args[1:width])
    kwargs = {key: call.detach(value) for key, value in call.kwargs.items() if key not in ("input", "weight", "bias")}
    rest = {"layer_norm": ("eps",), "group_norm": ("eps",), "rms_norm": ("eps",)}
    names = rest.get(call.name, ("training", "momentum", "eps"))
    first = {"layer_norm": 4, "group_norm": 4, "rms_norm": 3}.get(call.name, 5)
    kwargs.update(zip(names, call.args[first:], strict=False))
    func = call.func
    return lambda x: func(x, *args, **kwargs)


_ELEMENTWISE = ("add", "sub", "rsub", "mul", "div", "true_divide", "__radd__", "__rsub__", "__rmul__", "__rtruediv__")
_ELEMENTWISE += ("__rdiv__", "multiply", "divide", "subtract", "where", "maximum", "minimum", "pow", "lerp", "addcmul")


@register_rule(*_ELEMENTWISE, "add_", "sub_", "mul_", "div_")
def elementwise(tape: Tape, call: Call) -> Tensor:
    """Any function that acts entry by entry on broadcast arguments, also in place."""
    saved = [t for t in _tensors(call) if not call.is_tracked(t)]
    if call.name.endswith("_"):
        saved = [tensor.clone() if place == 0 else tensor for place, tensor in enumerate(saved)]
    if call.name in ("add", "sub", "add_", "sub_", "__radd__") and len(call.args) == 2 and not call.kwargs:
        saved = []  # linear: the gradient is +-B and needs no input
    sign = _sign(call)

    def gradients(out_grad: Tensor, kept: tuple[Tensor, ...]) -> Found:
        grad = wide(out_grad)
        if not kept:
            unique = {id(t): t for t in call.operands}.values()
            return [(t, _broadcast(tape, call, grad, t, sign(t))) for t in unique]
        return _differentiate(tape, call, grad, kept)

    return tape.tap(call, call.run(), tuple(saved), gradients)


def _sign(call: Call) -> Any:
    subtracts = call.name in ("sub", "sub_")
    return lambda operand: -1.0 if subtracts and operand is call.args[1] else 1.0


def _tensors(call: Call) -> list[Tensor]:
    return [value for value in (*call.args, *call.kwargs.values()) if isinstance(value, Tensor)]


def _differentiate(tape: Tape, call: Call, grad: Tensor, kept: tuple[Tensor, ...]) -> Found:
    """Run the function again with each parameter broadcast to its result; autograd then keeps the examples apart."""
    others = iter(kept)
    leaves: dict[int, tuple[Tensor, Tensor]] = {}

    def again(value: Any) -> Any:
        if value is INPUT:
            other = next(others)
            return other.to(grad.dtype) if other.is_floating_point() else other
        if not isinstance(value, Tensor):
            return value
        if id(value) not in leaves:
            spread = value.detach().to(grad.dtype).expand(grad.shape).clone().requires_grad_()
            leaves[id(value)] = (value, spread)
        return leaves[id(value)][1]

    func = getattr(torch, call.name[:-1]) if call.name.endswith("_") and call.name[0] != "_" else call.func
    with torch.enable_grad():
        args = [again(value) for value in call.args]
        out = func(*args, **{key: again(value) for key, value in call.kwargs.items()})
        spreads = [spread for _, spread in leaves.values()]
        grads = torch.autograd.grad(out, spreads, grad)
    return [(value, _broadcast(tape, call, g, value)) for (value, _), g in zip(leaves.values(), grads, strict=True)]


def _broadcast(tape: Tape, call: Call, grad: Tensor, operand: Tensor, sign: float = 1.0) -> Factor:
    """Return the gradients of an operand that was broadcast to the shape of `grad`."""
    return tape.rows(Rows.of_sums(sign * call.layout.reduce_to(grad, operand.shape), call.layout.to_rows(grad)))


@register_rule("expand", "expand_as", "broadcast_to", "repeat", "tile")
def expand(tape: Tape, call: Call) -> Tensor:
    """A parameter is handed to every example of the batch (class tokens, learned queries)."""
    operand = call.args[0]
    out = call.run().clone()
    if not call.is_tracked(operand):
        raise call.refuse("the shape of an expansion is itself a parameter.")
    if call.name in ("repeat", "tile"):
        missing = out.dim() - operand.dim()
        padded = (1,) * missing + tuple(operand.shape)
        odd = [d for d in range(out.dim()) if out.shape[d] != padded[d] and padded[d] != 1]
        if odd:
            raise call.refuse("repeat of a dimension larger than one has no rule; use expand.")

    def gradients(out_grad: Tensor, saved: tuple[Tensor, ...]) -> Found:
        return [(operand, _broadcast(tape, call, wide(out_grad), operand))]

    return tape.tap(call, out, (), gradients)


@register_rule("scaled_dot_product_attention")
def attention_mask(tape: Tape, call: Call) -> Tensor:
    """A learned attention bias (Swin): handed to every example, so the function's own backward keeps them apart."""
    query, _, _, bias = call.bind("query", "key", "value", "attn_mask")
    if len(call.operands) != 1 or not call.is_tracked(bias) or call.layout.dim != 0:
        raise call.refuse("only a learned attention bias has a rule here.")
    shape = (*query.shape[:-2], *bias.shape[-2:])
    spread = bias.detach().expand(shape).clone()

    def gradients(out_grad: Tensor, saved: tuple[Tensor, ...]) -> Found:
        return [(bias, _broadcast(tape, call, wide(out_grad), bias))]

    args, kwargs = call.args, call.kwargs
    tapped = tape.tap(call, spread, (), gradients)
    args = [tapped if value is bias else value for value in args]
    return call.func(*args, **{key: tapped if value is bias else value for key, value in kwargs.items()})
