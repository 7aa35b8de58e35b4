"""What a record adds is what its row adds alone, whatever path a micro-batch takes through the model; or a refusal.

The sums of the mechanisms are compared with loops over single rows that use autograd alone, for models that choose,
sort, pack or branch by value, and with hostile rows among them.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from tests.guarantees import alone, paths
from tests.guarantees.alone import SIZES, C, Loss, clipped, close, examples, micro_batches, works
from tests.guarantees.paths import Batch
from torch import Tensor

import sfumato as sf
from sfumato.base import Refused
from sfumato.losses.contrast import Contrast
from sfumato.mechanisms import Computation, MeasureOnce
from sfumato.plan import Unit


class Run(alone.Run):
    """Of the words model."""

    def __init__(self, loss: Any, unit: Unit, size: int, dtype: torch.dtype = torch.float32, **options: Any) -> None:
        computation = Computation(model=paths.Words().to(dtype), loss_fn=loss, **options)
        super().__init__(computation, unit, size, paths.row(0))


def options_of(name: str) -> dict[str, Any]:
    return {"synthetic": paths.made_up} if name == "scattered" else {}


def variants(rows: list[Batch]) -> dict[str, list[Batch]]:
    """The rows, and with one of them exchanged for each hostile one."""
    return {"none": rows, **{name: [*rows[:4], row, *rows[5:]] for name, row in paths.HOSTILE.items()}}


EVERY = [(name, size, dtype) for name in paths.LOSSES for size in SIZES for dtype in (torch.float32, torch.float64)]


@pytest.mark.every(3)
@pytest.mark.parametrize(("name", "size", "dtype"), EVERY, ids=str)
def test_examples_add_what_they_add_alone(name: str, size: int, dtype: torch.dtype) -> None:
    loss = paths.LOSSES[name]
    if name == "in_chunks" and size >= 8:
        with pytest.raises(Refused, match="another path"):
            Run(loss, sf.Example(clip_norm=C), size, dtype)
        return
    run = Run(loss, sf.Example(clip_norm=C), size, dtype, **options_of(name))
    for changed, rows in variants(paths.rows(10)).items():
        assert close(run.sums(rows), examples(run.computation.model, loss, rows), dtype), changed


@pytest.mark.parametrize("size", [4, 8])
@pytest.mark.parametrize("name", ["dense", "chosen_positions", "sorted_by_length", "raises_for_a_value"])
def test_groups_add_what_their_rows_add_alone(name: str, size: int) -> None:
    loss = paths.LOSSES[name]
    run = Run(loss, sf.Group(clip_norm=C, num_groups=4), size)
    for changed, rows in variants(paths.rows(12)).items():
        wanted = alone.groups(run.computation.model, loss, rows, 2)
        assert close(run.sums(rows, groups=2), wanted, torch.float32), changed


@pytest.mark.every(3)
@pytest.mark.parametrize(
    ("name", "size", "unit"),
    [(name, size, unit) for name in paths.EMBEDS for size in (3, 8) for unit in ("group", "pair")],
)
def test_embeddings_are_those_of_single_rows(name: str, size: int, unit: str) -> None:
    loss = sf.InfoNCE(temperature=0.5)
    units = {
        "group": sf.Group(clip_norm=C, num_groups=1),
        "pair": sf.Pair(clip_norm=C, loss=loss, largest_draw=6),
    }
    contrast = Contrast(embed=paths.EMBEDS[name], loss=loss)
    honest = Contrast(embed=paths.embed_dense if name == "embed_in_chunks" else paths.EMBEDS[name], loss=loss)
    if name == "embed_in_chunks" and size == 8:
        with pytest.raises(Refused, match="another path"):
            Run(contrast, units[unit], size)
        return
    if name == "embed_packed" and unit == "pair":
        with pytest.raises(Refused, match="depends on the row's values"):
            Run(contrast, units[unit], size)
        return
    run = Run(contrast, units[unit], size)
    for changed, rows in variants(paths.rows(6)).items():
        used = [row for row in rows if works(honest.embed, run.computation.model, row) is not None]
        if unit == "group" and size < len(rows):
            continue  # in parts: another test
        single = Run(honest, units[unit], 1) if unit == "pair" else None
        wanted = pairs_of(run, honest, used) if single is None else single.sums(rows, groups=len(rows))
        assert close(run.sums(rows, groups=len(rows)), wanted, torch.float32), changed


def pairs_of(run: Run, contrast: Contrast, rows: Sequence[Batch]) -> Tensor:
    """Return the clipped gradient of one group, from embeddings of single rows."""
    model = run.computation.model
    u, v = (torch.cat(side) for side in zip(*[contrast.embed(model, row) for row in rows], strict=True))
    meets = torch.ones(len(rows), len(rows), dtype=torch.bool)
    return clipped(model, contrast.rows(u @ v.T, meets).mean())


def test_a_group_in_parts_takes_hostile_rows() -> None:
    loss = paths.LOSSES["raises_for_a_value"]
    run = Run(loss, sf.Group(clip_norm=C, num_groups=1), 4)
    rows = paths.rows(8)
    hostile = [*rows[:5], paths.HOSTILE["label that is checked"], *rows[6:]]
    model = run.computation.model

    def parts(given: list[Batch]) -> Tensor:
        return run.of([replace(one, in_parts=True) for one in micro_batches(given, 4, 8)])

    for given in (rows, hostile):
        fit = [value[0] for row in given if (value := works(loss, model, row)) is not None]
        assert close(parts(given), clipped(model, torch.stack(fit).sum() / 8), torch.float32)


# ---------------------------------------------------------------- couplings are refused before the first step


class Queue(paths.Words):
    """From its twelfth call on it compares rows with those of earlier calls."""

    calls, memory = 0, None

    def hidden(self, batch: Batch) -> Tensor:
        h = super().hidden(batch)
        self.calls += 1
        if self.calls >= 12 and self.memory is not None:
            h = h + self.memory.mean()
        self.memory = h.detach()
        return h


def normalised_backward(model: paths.Words, batch: Batch) -> Tensor:
    h = model.hidden(batch)
    h.register_hook(lambda grad: grad / grad.norm())
    return paths.token_losses(model.head(h), batch["labels"])


def every_other_row(model: paths.Words, batch: Batch) -> Tensor:
    return paths.dense(model, batch) * (1 + torch.arange(len(batch["ids"])) % 2)


def mean_above_four_rows(model: paths.Words, batch: Batch) -> Tensor:
    losses = paths.dense(model, batch)
    return losses - losses.detach().mean() * losses if len(losses) > 4 else losses


def hardest_quarter(model: paths.Words, batch: Batch) -> Tensor:
    losses = paths.dense(model, batch)
    places = losses.detach().argsort(descending=True, stable=True)[: max(len(losses) // 4, 1)]
    return losses * torch.zeros(len(losses), dtype=losses.dtype).index_fill(0, places, 1.0)


def scaled_by_the_batch(model: paths.Words, batch: Batch) -> Tensor:
    h = model.hidden(batch)
    h = h / (1 + 1e-4 * h.detach().abs().mean())
    return paths.token_losses(model.head(h), batch["labels"])


@pytest.mark.parametrize(
    "loss",
    [
        paths.over_labels_of_the_batch,
        normalised_backward,
        every_other_row,
        mean_above_four_rows,
        hardest_quarter,
        scaled_by_the_batch,
    ],
)
def test_coupled_rows_are_refused(loss: Loss) -> None:
    with pytest.raises(Refused, match="depend on each other"):
        Run(loss, sf.Example(clip_norm=C), 8)


def test_a_queue_that_starts_late_is_refused() -> None:
    computation = Computation(model=Queue(), loss_fn=paths.dense)
    measure = MeasureOnce(computation)
    with pytest.raises(Refused, match="depend on each other"):
        measure.before(0, micro_batches([paths.row(0)] * 8, 8, None)[0])


def test_certification_is_repeated_at_later_steps() -> None:
    """A coupling that begins after the first certification is found at the next public step."""
    model = paths.Words()
    late = {"on": False}

    def loss(model: Any, batch: Batch) -> Tensor:
        losses = paths.dense(model, batch)
        return losses * (1 + losses.detach().mean()) if late["on"] else losses

    measure = MeasureOnce(Computation(model=model, loss_fn=loss))
    template = micro_batches([paths.row(0)] * 8, 8, None)[0]
    measure.before(0, template)
    late["on"] = True
    measure.before(15, template)
    with pytest.raises(Refused, match="depend on each other"):
        measure.before(16, template)


def test_certification_is_repeated_when_a_hook_is_added() -> None:
    model = paths.Words()
    measure = MeasureOnce(Computation(model=model, loss_fn=paths.dense))
    template = micro_batches([paths.row(0)] * 8, 8, None)[0]
    measure.before(0, template)
    model.mix.register_forward_hook(lambda module, given, out: out * out.detach().abs().mean())
    with pytest.raises(Refused, match="depend on each other"):
        measure.before(1, template)
