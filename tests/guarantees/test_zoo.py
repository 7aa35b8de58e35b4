"""Real classes at the sizes that train: under every unit the sum is that of a loop over single rows.

`make test` takes every second model once, the units, sizes and precisions of the table in turn, and those of
`EVERY_UNIT` under several. With SFUMATO_ZOO=all the whole table is run.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import transformers as tf
from tests.guarantees import alone
from tests.guarantees.alone import SIZES, C, Run, close, micro_batches
from tests.norms import (
    cases,
    cases_models,  # noqa: F401  registers its cases
)
from tests.once import ALL
from torch import Tensor, nn

import sfumato as sf
from sfumato import norms
from sfumato.base import Refused
from sfumato.losses.contrast import Contrast
from sfumato.mechanisms import Computation
from sfumato.norms.synthetic import batch_size

UNITS = ("example", "group", "pair")
DTYPES = (torch.float32, torch.float64)
SINGLE = {"t5", "llama_grouped_query", "t5_with_full_and_ragged_masks"}  # norms in float32 whatever the model is in
LARGE = {"timm_resnet_groupnorm"}
Case = tuple[nn.Module, Callable[[Any, Any], Tensor], dict[str, Tensor]]


def sparse_prediction() -> Case:
    """transformers' own head on chosen positions, packed over the rows."""
    config = tf.ModernBertConfig(
        vocab_size=20, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
        global_attn_every_n_layers=2, local_attention=4, sparse_prediction=True, pad_token_id=0, bos_token_id=1,
        eos_token_id=2, cls_token_id=1, sep_token_id=2, attention_dropout=0.0, embedding_dropout=0.0, mlp_dropout=0.0,
    )  # fmt: skip

    def loss_fn(model: Any, batch: dict[str, Tensor]) -> Tensor:
        chosen = batch["labels"] != -100
        logits = model(input_ids=batch["x"], attention_mask=batch["mask"], labels=batch["labels"]).logits
        losses = F.cross_entropy(logits, batch["labels"][chosen], reduction="none")
        rows = torch.arange(len(chosen))[:, None].expand_as(chosen)[chosen]
        return torch.zeros(len(chosen), dtype=losses.dtype).index_add(0, rows, losses) / 7

    mask, ids = cases.ragged(), cases.tokens()
    labelled = (torch.rand(ids.shape) < 0.4) & (mask > 0)
    labelled[:, 0] = True
    return tf.ModernBertForMaskedLM(config), loss_fn, {"x": ids, "mask": mask, "labels": ids.where(labelled, -100)}


def t5_with_full_and_ragged_masks() -> Case:
    """A mask of ones is dropped by transformers: another path."""
    model, loss_fn, batch = cases.CASES["t5"]()
    mask = batch["mask"].clone()
    mask[1] = mask[3] = 1
    return model, loss_fn, {**batch, "mask": mask}


MORE: dict[str, Callable[[], Case]] = {
    case.__name__: case for case in (sparse_prediction, t5_with_full_and_ragged_masks)
}
EVERY_UNIT = [*MORE, "convolutions_and_raw_parameters"]  # paths by value; parameters of every shape, a scalar too
NAMES = [*cases.CASES, *MORE]


def table() -> list[tuple[str, str, int, torch.dtype]]:
    whole = [(name, unit, size, dtype) for name in NAMES for unit in UNITS for size in SIZES for dtype in DTYPES]
    if ALL:
        return whole
    found = []
    for number, name in enumerate(NAMES):
        size = SIZES[number % (2 if name in LARGE else len(SIZES))]
        found.append((name, UNITS[number % len(UNITS)], size, DTYPES[number // 2 % 2]))
    found += [(name, unit, 8, torch.float32) for name in EVERY_UNIT for unit in UNITS]
    return found


def build(name: str, dtype: torch.dtype) -> Case:
    if name not in MORE:
        return cases.build(name, dtype)
    cases.CASES[name] = MORE[name]
    try:
        return cases.build(name, dtype)
    finally:
        del cases.CASES[name]


def with_hostile(rows: list[dict[str, Tensor]], place: int) -> dict[str, list[dict[str, Tensor]]]:
    """The rows, and with one of them exchanged: floats that are not finite, integers out of every range."""

    def changed(value: float, integer: int) -> list[dict[str, Tensor]]:
        hostile = {
            name: torch.full_like(leaf, value if leaf.is_floating_point() else integer)
            for name, leaf in rows[place].items()
        }
        return [*rows[:place], hostile, *rows[place + 1 :]]

    return {"honest": rows, "out of range": changed(torch.nan, 99), "negative": changed(1e30, -1)}


def as_embeddings(loss_fn: Any) -> Any:
    """Return unit vectors of two numbers that carry the loss of a row: a pair loss for any model."""

    def embed(model: Any, batch: Any) -> tuple[Tensor, Tensor]:
        losses = loss_fn(model, batch)
        one = torch.ones_like(losses)
        return F.normalize(torch.stack([losses, one], 1), dim=1), F.normalize(
            torch.stack([one, losses + 0.5], 1), dim=1
        )

    return embed


@pytest.mark.every(2)
@pytest.mark.parametrize(("name", "unit", "size", "dtype"), table(), ids=lambda value: str(value).split(".")[-1])
def test_sums_equal_a_loop_over_single_rows(name: str, unit: str, size: int, dtype: torch.dtype) -> None:
    model, loss_fn, batch = build(name, dtype)
    model.eval()  # with dropout each pass draws its own: nothing to compare
    model.requires_grad_(True)
    unused = [p for p, used in zip(model.parameters(), reached(model, loss_fn, batch), strict=True) if not used]
    for parameter in unused:
        parameter.requires_grad_(False)
    rows = [norms.row_of(batch, place) for place in range(batch_size(batch))]
    loss = sf.InfoNCE(temperature=0.5)
    units = {
        "example": sf.Example(clip_norm=C),
        "group": sf.Group(clip_norm=C, num_groups=3),
        "pair": sf.Pair(clip_norm=C, loss=loss, largest_draw=len(rows)),
    }
    made = Contrast(embed=as_embeddings(loss_fn), loss=loss) if unit == "pair" else loss_fn
    computation = Computation(model=model, loss_fn=made)
    if name == "sparse_prediction" and unit == "pair":
        with pytest.raises(Refused, match="depends on the row's values"):
            Run(computation, units[unit], size, rows[0])
        return
    run = Run(computation, units[unit], size, rows[0])
    together = {"example": None, "group": {1: len(rows), 3: 3}.get(size, 2), "pair": len(rows)}[unit]
    in_parts = unit == "group" and size == 1
    for changed, given in with_hostile(rows, 2).items():
        found = run.of([replace(one, in_parts=in_parts) for one in micro_batches(given, size, together)])
        if unit == "pair" and run.tally.num_failed + run.tally.num_nonfinite:  # pairs are of the rows that are left
            given = [*given[:2], *given[3:]]
        wanted = wanted_of(model, loss_fn, given, unit, together)
        assert close(found, wanted, torch.float32 if name in SINGLE else dtype), changed
        if changed == "honest":
            assert (run.tally.num_rows, run.tally.num_failed, run.tally.num_nonfinite) == (len(rows), 0, 0)


def wanted_of(model: Any, loss_fn: Any, rows: list[dict[str, Tensor]], unit: str, together: int | None) -> Tensor:
    if unit == "pair":
        return alone.pairs(model, as_embeddings(loss_fn), sf.InfoNCE(temperature=0.5), rows)
    return alone.examples(model, loss_fn, rows) if together is None else alone.groups(model, loss_fn, rows, together)


def reached(model: nn.Module, loss_fn: Any, batch: Any) -> list[bool]:
    grads = torch.autograd.grad(loss_fn(model, batch).sum(), list(model.parameters()), allow_unused=True)
    return [grad is not None for grad in grads]
