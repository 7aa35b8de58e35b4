"""Whatever way a value takes to Python or into an address: a row adds what it adds alone.

Models read one rare token, or sort rows by their length, and let that decide for the whole batch. No made-up row holds
what they look for, so that certification cannot see it: the passes of a step must.
"""

import math
import pickle
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tests.guarantees import paths
from tests.guarantees.alone import C, Run, close, examples
from torch import Tensor

import sfumato as sf
from sfumato.base import Refused
from sfumato.mechanisms import Computation

VOCABULARY, LENGTH, WIDTH, SIZE = 50_000, 6, 6, 12
RARE, PADDING = 7, VOCABULARY - 1
Batch = dict[str, Tensor]


class Words(paths.Words):
    """With a large vocabulary and a constant table beside it."""

    def __init__(self) -> None:
        super().__init__(vocabulary=VOCABULARY)
        self.register_buffer("table", torch.linspace(0.5, 2, VOCABULARY), persistent=False)


def losses(logits: Tensor, batch: Batch) -> Tensor:
    return F.cross_entropy(logits.transpose(1, 2), batch["y"], reduction="none").sum(1) * batch["w"]


def rows(length: int = LENGTH) -> list[Batch]:
    """Rows of one text, of which every other one weighs little."""
    torch.manual_seed(5)
    ids, y = torch.randint(8, VOCABULARY - 1, (1, length)), torch.randint(0, 12, (1, length))
    return [{"ids": ids.clone(), "y": y, "w": torch.tensor([(1000.0, 0.001)[n % 2]])} for n in range(SIZE)]


def changed(given: list[Batch], place: int, token: int) -> list[Batch]:
    """The rows, with a token in one of them: once, where it is the rare one, else from its second entry on."""
    ids = given[place]["ids"].clone()
    ids[:, 1 if token == PADDING else 3 :][:, : None if token == PADDING else 1] = token
    return [*given[:place], {**given[place], "ids": ids}, *given[place + 1 :]]


def check(loss: Callable[[Any, Batch], Tensor], length: int = LENGTH) -> None:
    """One row exchanged moves the sum by at most 2C, and all sums are those of loops over single rows."""
    given = rows(length)
    run = Run(Computation(model=Words(), loss_fn=loss), sf.Example(clip_norm=C), SIZE, given[0])
    first = run.sums(given)
    assert close(first, examples(run.computation.model, loss, given), torch.float32)
    for token, place in ((RARE, 10), (PADDING, SIZE - 1), (PADDING, 0)):
        other = changed(given, place, token)
        found = run.sums(other)
        assert close(found, examples(run.computation.model, loss, other), torch.float32), token
        assert float((found - first).norm()) <= 2 * C


def script(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a function with TorchScript, which torch warns of."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.script(function)


# ---------------------------------------------------------------- values that reach Python


def rare(ids: Tensor) -> Tensor:
    return ids.eq(RARE)


def compares(ids: Tensor) -> bool:
    try:
        torch.testing.assert_close(rare(ids).float(), torch.zeros_like(ids).float())
    except AssertionError:
        return True
    return False


def written_later(ids: Tensor) -> bool:
    memory = torch.zeros_like(ids)
    view = memory.numpy()
    memory.copy_(rare(ids))
    return bool(view.any())


def written_behind(ids: Tensor) -> bool:
    array = np.zeros(tuple(ids.shape), dtype=np.int64)
    torch.from_numpy(array).add_(rare(ids))
    return bool(array.any())


def written_through(ids: Tensor) -> bool:
    memory = torch.zeros_like(ids)
    view = np.from_dlpack(memory)
    memory[rare(ids)] = 1
    return bool(view.any())


def called_back(ids: Tensor) -> bool:
    found: list[float] = []
    rare(ids).float().apply_(lambda value: found.append(value) or value)
    return any(found)


def raises(ids: Tensor) -> bool:
    """As fallbacks do: more is added to a matrix that has no factor."""
    matrix = 1.0 - 2.0 * rare(ids).any().float().view(1, 1)
    more = matrix + 4.0
    try:
        torch.linalg.cholesky(matrix)
    except RuntimeError:
        torch.linalg.cholesky(more)
        return True
    return False


def asserts(ids: Tensor) -> bool:
    try:
        torch._assert_async(~rare(ids).any())
    except RuntimeError:
        return True
    return False


READS: dict[str, Callable[[Tensor], Any]] = {
    "asarray": lambda ids: (np.asarray(ids) == RARE).any(),
    "numpy": lambda ids: rare(ids).numpy().any(),
    "numpy of more than it prints": lambda ids: rare(ids).repeat(1, 40).numpy().any(),
    "numpy by force": lambda ids: rare(ids).numpy(force=True).any(),
    "tolist": lambda ids: RARE in rare(ids).int().mul(RARE).flatten().tolist(),
    "str": lambda ids: "True" in str(rare(ids).any(1)),
    "repr": lambda ids: repr(rare(ids).any()) != "tensor(False)",
    "format": lambda ids: f"{rare(ids).sum()}" != "0",
    "dlpack": lambda ids: np.from_dlpack(rare(ids).int()).any(),
    "memory": lambda ids: b"\x01" in bytes(memoryview(np.asarray(rare(ids).to(torch.uint8)))),
    "unique": lambda ids: len(np.unique(rare(ids))) > 1,
    "unique of torch": lambda ids: len(torch.unique(rare(ids))) > 1,
    "operator": lambda ids: torch.ops.aten._local_scalar_dense(rare(ids).any()),
    "overload": lambda ids: torch.ops.aten._local_scalar_dense.default(rare(ids).any()),
    "sparse": lambda ids: rare(ids).to_sparse()._nnz() > 0,
    "sparse values": lambda ids: rare(ids).float().to_sparse().values().numel() > 0,
    "length of a selection": lambda ids: len(ids[rare(ids)]) > 0,
    "nonzero": lambda ids: rare(ids).nonzero().shape[0] > 0,
    "iteration": lambda ids: any(int(value) for value in rare(ids).any(1)),
    "floor": lambda ids: math.floor(rare(ids).sum()) > 0,
    "equal": lambda ids: not torch.equal(ids, ids.masked_fill(rare(ids), 0)),
    "is_nonzero": lambda ids: torch.is_nonzero(rare(ids).any()),
    "contains": lambda ids: RARE in rare(ids).int() * RARE,
    "comparison": compares,
    "written later": written_later,
    "written behind": written_behind,
    "written through": written_through,
    "called back": called_back,
    "what raises": raises,
    "what asserts": asserts,
}


@pytest.mark.parametrize("name", list(READS))
def test_what_is_read_is_compared(name: str) -> None:
    def loss(model: Words, batch: Batch) -> Tensor:
        h = model.hidden(batch)
        choices = h * 1.0, h * 101.0  # both are made: no call but what is read tells one path from the other
        return losses(model.head(choices[bool(READS[name](batch["ids"]))]), batch)

    check(loss)


def by_hook(model: Words, batch: Batch) -> Tensor:
    h = model.hidden(batch)
    h.register_hook(lambda grad: grad * 100 if bool(rare(batch["ids"]).any()) else grad)
    return losses(model.head(h), batch)


class Backward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, h: Tensor, ids: Tensor) -> Tensor:
        ctx.save_for_backward(ids)
        return h.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        return grads[0] * 100 if bool(rare(ctx.saved_tensors[0]).any()) else grads[0], None


def by_function(model: Words, batch: Batch) -> Tensor:
    return losses(model.head(Backward.apply(model.hidden(batch), batch["ids"])), batch)  # type: ignore[arg-type]


def neighbour(ids: Tensor) -> Tensor:
    """Each row's own place, or that of one row for all, where a rare token stands: nothing is read for it."""
    return torch.where(rare(ids).any(), rare(ids).any(1).int().argmax(), torch.arange(len(ids)))


def by_selecting_hook(model: Words, batch: Batch) -> Tensor:
    h = model.hidden(batch)
    h.register_hook(lambda grad: grad[neighbour(batch["ids"])])
    return losses(model.head(h), batch)


class SelectsBackward(Backward):
    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        return grads[0].index_select(0, neighbour(ctx.saved_tensors[0])), None


def by_selecting_function(model: Words, batch: Batch) -> Tensor:
    return losses(model.head(SelectsBackward.apply(model.hidden(batch), batch["ids"])), batch)  # type: ignore[arg-type]


@pytest.mark.parametrize("loss", [by_hook, by_function, by_selecting_hook, by_selecting_function])
def test_what_is_read_in_the_backward_pass_decides_for_no_other_row(loss: Callable[[Any, Batch], Tensor]) -> None:
    with pytest.raises(Refused, match="backward pass"):
        check(loss)


@script
def scripted(ids: Tensor) -> float:
    return 100.0 if bool(ids.eq(7).any()) else 0.0


def switched_off(ids: Tensor) -> float:
    with torch._C.DisableTorchFunction():
        return 100.0 if bool(rare(ids).any()) else 0.0


HIDDEN: dict[str, Callable[[Tensor], float]] = {
    "scripted": scripted,
    "switched off": switched_off,
    "storage": lambda ids: 100.0 * (1 in rare(ids).untyped_storage().tolist()),
}


def scaled(read: Callable[[Tensor], float]) -> Callable[[Any, Batch], Tensor]:
    return lambda model, batch: losses(model.head(model.hidden(batch) * (1 + read(batch["ids"]))), batch)


@pytest.mark.parametrize("name", list(HIDDEN))
def test_what_is_read_where_torch_does_not_show_it_is_refused(name: str) -> None:
    with pytest.raises(Refused, match="called where torch does not show it"):
        check(scaled(HIDDEN[name]))


def test_a_copy_of_the_memory_is_compared() -> None:
    check(scaled(lambda ids: 100.0 * (RARE in pickle.loads(pickle.dumps(ids)).tolist())))


# ---------------------------------------------------------------- addresses


def by_length(batch: Batch) -> Tensor:
    """The order of rows by length, found without any other address."""
    lengths = (batch["ids"] != PADDING).sum(1)
    key = lengths * len(lengths) + torch.arange(len(lengths))
    return (key[:, None] > key[None]).sum(1)  # the place of each row among the sorted ones: also their order inverted


def inverse(order: Tensor) -> Tensor:
    places = torch.arange(len(order))
    return ((order[None] == places[:, None]) * places[None]).sum(1)


def transposed(select: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda h, order: select(h.transpose(0, 1), order).transpose(0, 1)


def wide(order: Tensor, h: Tensor) -> Tensor:
    return order[None, :, None].expand(h.shape)


def read_as_list(h: Tensor, order: Tensor) -> Tensor:
    return h[order.tolist()]


def into(kind: str) -> Callable[[Tensor, Tensor], Tensor]:
    def put(h: Tensor, order: Tensor) -> Tensor:
        return getattr(torch.zeros_like(h), kind)(0, inverse(order), h)

    return put


def slots(h: Tensor, order: Tensor) -> Tensor:
    """Rows lie in a memory of a constant number of slots."""
    return F.embedding(order, F.pad(h.flatten(1), (0, 0, 0, 64 - len(h)))).view(h.shape)


def slots_written(h: Tensor, order: Tensor) -> Tensor:
    memory = torch.zeros(64, h.flatten(1).shape[1])
    memory[: len(h)] = h.flatten(1)
    return memory.index_select(0, order).view(h.shape)


def slots_scattered(h: Tensor, order: Tensor) -> Tensor:
    memory = torch.zeros(64, h.flatten(1).shape[1])
    return memory.index_add(0, inverse(order), h.flatten(1))[: len(h)].view(h.shape)


def by_sparse(order: Tensor) -> Tensor:
    places = torch.stack([torch.arange(len(order)), order])
    return torch.sparse_coo_tensor(places, torch.ones(len(order)), (len(order), len(order)))


def by_compressed(order: Tensor) -> Tensor:
    ones = torch.ones(len(order))
    return torch.sparse_csr_tensor(torch.arange(len(order) + 1), order, ones, (len(order), len(order)))


def unpooled(h: Tensor, order: Tensor) -> Tensor:
    x = h.flatten(1).mT
    return F.max_unpool1d(x, inverse(order).expand(x.shape).contiguous(), 1, 1).mT.reshape(h.shape)


def sampled(h: Tensor, order: Tensor) -> Tensor:
    """Rows lie along the width of a picture."""
    across = (2 * order.float() + 1) / len(order) - 1
    grid = torch.stack([across, torch.zeros_like(across)], -1)[None, None]
    found = F.grid_sample(h.flatten(1).mT[None, :, None], grid, mode="nearest", align_corners=False)
    return found[0, :, 0].mT.reshape(h.shape)


def under_vmap(select: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda h, order: torch.vmap(lambda c: select(c, order), in_dims=1, out_dims=1)(h.flatten(1)).view(h.shape)


SELECTIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "getitem": lambda h, order: h[order],
    "array": lambda h, order: h[np.asarray(order)],
    "list": read_as_list,
    "small integers": lambda h, order: h[order.to(torch.int32)],
    "second dimension": transposed(lambda h, order: h[:, order]),
    "array in the second dimension": transposed(lambda h, order: h[:, order.numpy()]),
    "gather": lambda h, order: h.gather(0, order[:, None, None].expand(h.shape)),
    "gather, sequence first": transposed(lambda h, order: h.gather(1, wide(order, h))),
    "take_along_dim": transposed(lambda h, order: torch.take_along_dim(h, order[None, :, None], 1)),
    "index_select": transposed(lambda h, order: h.index_select(1, order)),
    "index_select from behind": transposed(lambda h, order: h.index_select(-2, order)),
    "embedding": lambda h, order: F.embedding(order, h.flatten(1)).view(h.shape),
    "embedding of torch": lambda h, order: torch.embedding(h.flatten(1), order).view(h.shape),
    "operator": lambda h, order: torch.ops.aten.index(h, [order]),
    "overload": lambda h, order: torch.ops.aten.index_select.default(h, 0, order),
    "take": lambda h, order: h.take(order[:, None] * h[0].numel() + torch.arange(h[0].numel())).view(h.shape),
    "index_copy": into("index_copy"),
    "index_add": into("index_add"),
    "index_put": lambda h, order: torch.zeros_like(h).index_put((inverse(order),), h),
    "scatter": transposed(lambda h, order: torch.zeros_like(h).scatter(1, wide(inverse(order), h), h)),
    "scatter_add": transposed(lambda h, order: torch.zeros_like(h).scatter_add(1, wide(inverse(order), h), h)),
    "slots": slots,
    "slots that are written": slots_written,
    "slots that are scattered to": slots_scattered,
    "gather by name": lambda h, order: torch.gather(input=h, dim=0, index=order[:, None, None].expand(h.shape)),
    "sparse matrix": lambda h, order: torch.sparse.mm(by_sparse(order), h.flatten(1)).view(h.shape),
    "compressed rows": lambda h, order: (by_compressed(order) @ h.flatten(1)).view(h.shape),
    "matrix made sparse": lambda h, order: torch.sparse.mm(
        (order[:, None] == torch.arange(len(order))).float().to_sparse(), h.flatten(1)
    ).view(h.shape),
    "rows of a sparse matrix": lambda h, order: torch.sparse.mm(
        torch.eye(len(order)).to_sparse().index_select(0, order), h.flatten(1)
    ).view(h.shape),
    "unpooling": unpooled,
    "sampling of a grid": sampled,
    "gather under vmap": under_vmap(lambda c, order: c.gather(0, order)),
    "index_select under vmap": under_vmap(lambda c, order: c.index_select(0, order)),
    "getitem under vmap": under_vmap(lambda c, order: c[order]),
    "under vjp": lambda h, order: torch.func.vjp(lambda x: x.gather(0, order[:, None, None].expand(h.shape)), h)[0],
}


@pytest.mark.every(3)
@pytest.mark.filterwarnings("ignore:Sparse")
@pytest.mark.parametrize("length", [LENGTH, SIZE], ids=["short", "as many positions as rows"])
@pytest.mark.parametrize("name", list(SELECTIONS))
def test_what_rows_are_selected_by_is_compared(name: str, length: int) -> None:
    select = SELECTIONS[name]

    def loss(model: Words, batch: Batch) -> Tensor:
        place = by_length(batch)
        logits = model.head(select(model.hidden(batch), inverse(place)))
        return losses(select(logits, place), batch)

    check(loss, length)


def through_reshape(model: Words, batch: Batch) -> Tensor:
    """A rare token makes a row look along a dimension that seems not to hold the rows: the other one grows."""
    count, length = batch["ids"].shape
    own = torch.arange(count)
    wanted = torch.where(rare(batch["ids"]).any(1), own // 2, own).clamp(max=length - 1)
    h = model.head(model.hidden(batch)).tanh().mean((1, 2))[:, None].expand(count, length)
    return h.reshape(length, count).gather(0, wanted[None])[0] * batch["w"]


def test_a_dimension_that_grows_holds_rows_only_if_each_entry_is_of_one() -> None:
    check(through_reshape, SIZE)


def sorts(kind: Callable[[Tensor], Tensor]) -> Callable[[Any, Batch], Tensor]:
    def loss(model: Words, batch: Batch) -> Tensor:
        order = kind((batch["ids"] != PADDING).sum(1))
        return losses(model.head(model.hidden(batch)[order])[order.argsort()], batch)

    return loss


Turn = Callable[[Tensor, Tensor], Tensor]


def turned(turn: Turn) -> Callable[[Any, Batch], Tensor]:
    """Rows are turned round by a number that is never read."""

    def loss(model: Words, batch: Batch) -> Tensor:
        shift = (batch["ids"] == PADDING).sum()
        count = len(batch["ids"])
        return losses(turn(model.head(turn(model.hidden(batch), shift % count)), -shift % count), batch)

    return loss


def twice(select: Turn) -> Turn:
    return lambda h, shift: select(torch.cat([h, h]), shift)[: len(h)]


@pytest.mark.parametrize(
    "loss",
    [
        sorts(lambda lengths: lengths[None].argsort(dim=1, stable=True)[0]),
        sorts(lambda lengths: lengths[None].sort(dim=-1, stable=True).indices[0]),
        sorts(lambda lengths: (-lengths[None] * SIZE - torch.arange(len(lengths))).topk(len(lengths), 1).indices[0]),
        sorts(lambda lengths: torch.as_tensor(np.argsort(np.asarray(lengths), kind="stable"))),
        turned(lambda h, shift: h.roll(shift, 0)),
        turned(lambda h, shift: torch.roll(h, (shift, 0), (0, 1))),
        turned(twice(lambda h, shift: h.narrow(0, shift, len(h) // 2))),
        turned(twice(lambda h, shift: h[shift : shift + len(h) // 2])),
        turned(twice(lambda h, shift: h.flatten(1).T[:, shift : shift + len(h) // 2].T.unflatten(1, h.shape[1:]))),
    ],
    ids=["argsort", "sort", "topk", "numpy", "roll", "roll two", "narrow", "slice", "slice of the second dimension"],
)
@pytest.mark.parametrize("length", [LENGTH, SIZE], ids=["short", "as many positions as rows"])
def test_orders_of_rows_are_compared(loss: Callable[[Any, Batch], Tensor], length: int) -> None:
    check(loss, length)


# ---------------------------------------------------------------- what stays joint


@script
def smooth(x: Tensor) -> Tensor:
    return x * torch.sigmoid(1.7 * x)


def of_vocabulary(model: Words, batch: Batch) -> Tensor:
    logp = model.head(model.hidden(batch)).log_softmax(-1)
    return -logp.gather(-1, batch["y"][..., None]).squeeze(-1).sum(1)


def of_flat_vocabulary(model: Words, batch: Batch) -> Tensor:
    logp = model.head(model.hidden(batch)).flatten(0, 1).log_softmax(-1)
    return -logp.gather(1, batch["y"].flatten()[:, None]).view(len(batch["y"]), -1).sum(1)


def of_sequence_first_vocabulary(model: Words, batch: Batch) -> Tensor:
    logp = model.head(model.hidden(batch).transpose(0, 1)).log_softmax(-1)
    return -logp.gather(-1, batch["y"].T[..., None]).squeeze(-1).sum(0)


def last_position(model: Words, batch: Batch) -> Tensor:
    h = model.hidden(batch)
    return F.cross_entropy(
        model.head(h[torch.arange(len(h)), batch["ids"].argmax(-1)]), batch["y"][:, 0], reduction="none"
    )


def tables(model: Words, batch: Batch) -> Tensor:
    h = model.hidden(batch) * model.table[batch["ids"]][..., None]
    return losses(model.head(h * F.embedding(batch["ids"], model.table[:, None])), batch)


def tokens_in_order(model: Words, batch: Batch) -> Tensor:
    h = model.hidden(batch)
    order = batch["ids"].argsort(1)
    return losses(model.head(h.gather(1, order[..., None].expand(h.shape))), batch)


def tokens_added(model: Words, batch: Batch) -> Tensor:
    h = model.hidden(batch)
    return losses(
        model.head(torch.zeros_like(h).scatter_add(1, (batch["ids"] % 3)[..., None].expand(h.shape), h)), batch
    )


def constant_of_numpy(model: Words, batch: Batch) -> Tensor:
    return losses(model.head(model.hidden(batch) * torch.from_numpy(np.ones(WIDTH, dtype=np.float32))), batch)


def taken_apart(model: Words, batch: Batch) -> Tensor:
    """Rows as a list of tensors, as vision-language models of transformers hand pictures on."""
    logp = torch.stack(list(model.head(model.hidden(batch)))).log_softmax(-1)
    return -logp.gather(-1, batch["y"][..., None]).squeeze(-1).sum(1)


def gathered_by_name(model: Words, batch: Batch) -> Tensor:
    logp = model.head(model.hidden(batch)).log_softmax(-1)
    return -torch.gather(input=logp, dim=-1, index=batch["y"][..., None]).squeeze(-1).sum(1)


def split_and_joined(model: Words, batch: Batch) -> Tensor:
    logp = torch.cat(model.head(model.hidden(batch)).split(1)).log_softmax(-1)
    return -logp.gather(-1, batch["y"][..., None]).squeeze(-1).sum(1)


def with_a_script(model: Words, batch: Batch) -> Tensor:
    return losses(model.head(smooth(model.hidden(batch))), batch)


JOINT = (
    of_vocabulary, of_flat_vocabulary, of_sequence_first_vocabulary, last_position, tables, tokens_in_order,
    tokens_added, constant_of_numpy, with_a_script, taken_apart,
    split_and_joined, gathered_by_name,
)  # fmt: skip


@pytest.mark.parametrize("loss", JOINT)
def test_what_rows_do_inside_themselves_stays_joint(loss: Callable[[Any, Batch], Tensor]) -> None:
    given = changed(changed(rows(), 3, PADDING), 5, RARE)
    for place, row in enumerate(given):
        row["ids"] = (row["ids"] + 131 * place) % VOCABULARY
    run = Run(Computation(model=Words(), loss_fn=loss), sf.Example(clip_norm=C), SIZE, given[0])
    assert close(run.sums(given), examples(run.computation.model, loss, given), torch.float32)
    assert run.tally.num_alone == 0
