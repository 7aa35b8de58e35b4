"""The example unit: the sum over micro-batches against a sum written out row by row."""

import itertools
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import sfumato as sf
from sfumato import norms
from sfumato.base import BadInput, Refused
from sfumato.mechanisms import Computation, Engine, MicroBatch, clip_examples, clip_factor, flat


def _model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.LayerNorm(6), nn.Linear(6, 3))


def _loss(model, batch):
    return F.cross_entropy(model(batch["x"]), batch["y"], reduction="none")


def _rows(count, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return {"x": torch.randn(count, 5, generator=generator) * 3, "y": torch.arange(count) % 3}


def _split(rows, size):
    count = len(rows["y"])
    batches = []
    for start in range(0, count, size):
        index = torch.arange(start, start + size)
        batch = {name: value[index.clamp(max=count - 1)] for name, value in rows.items()}
        batches.append(MicroBatch(batch=batch, valid=index < count))
    return batches


def _written_out(model, rows, factor):
    """Sum of clipped gradients, one row at a time."""
    parameters = dict(model.named_parameters())
    total = {name: torch.zeros_like(p, dtype=torch.float64) for name, p in parameters.items()}
    losses = _loss(model, rows)
    for loss in losses:
        grads = torch.autograd.grad(loss, list(parameters.values()), retain_graph=True)
        norm = torch.stack([g.double().square().sum() for g in grads]).sum().sqrt()
        for name, grad in zip(parameters, grads, strict=True):
            total[name] += factor(norm) * grad.double()
    return total


UNIT = sf.Example(clip_norm=0.7)


@pytest.mark.parametrize("engine", [Engine(), Engine(clipped_sum=norms.oracle_sum)], ids=["ghost", "oracle"])
@pytest.mark.parametrize("size", [1, 4, 13, 20])
@pytest.mark.parametrize("unit", [UNIT, sf.Example(clip_norm=0.7, clip="automatic", gamma=0.05)], ids=["flat", "auto"])
def test_the_sum_does_not_depend_on_how_it_is_chunked(engine, size, unit):
    model, rows, factor = _model(), _rows(13), clip_factor(unit)
    computation = Computation(model=model, loss_fn=_loss, engine=engine)
    clipped, tally = clip_examples(computation, _split(rows, size), unit, factor)
    for name, expected in _written_out(model, rows, factor).items():
        assert clipped.sums[name].dtype == torch.float64
        torch.testing.assert_close(clipped.sums[name], expected, rtol=1e-5, atol=1e-6)
    assert (tally.num_rows, tally.num_failed, tally.num_nonfinite) == (13, 0, 0)
    assert tally.mean_loss == pytest.approx(float(_loss(model, rows).detach().mean()), rel=1e-5)
    assert (clipped.presence, clipped.swap) == (unit.presence, unit.swap)


def test_sums_accumulate_in_float64():
    """A hundred equal rows in as many chunks: the sum is a hundred times one row, to float64's precision."""
    rows = {name: value[:1] for name, value in _rows(1).items()}
    one = MicroBatch(batch=rows, valid=torch.tensor([True]))
    computation = Computation(model=_model(), loss_fn=_loss)
    single, _ = clip_examples(computation, [one], UNIT, flat(0.7))
    many, _ = clip_examples(computation, list(itertools.repeat(one, 100)), UNIT, flat(0.7))
    for name, total in many.sums.items():
        torch.testing.assert_close(total, 100 * single.sums[name], rtol=1e-12, atol=0.0)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1e38])
def test_a_row_that_is_not_finite_counts_as_zero_and_moves_nobody(bad):
    rows = _rows(8)
    clean, _ = clip_examples(Computation(model=_model(), loss_fn=_loss), _split(rows, 4), UNIT, flat(0.7))
    spoilt = {name: torch.cat([value, value[:1]]) for name, value in rows.items()}
    spoilt["x"][-1, 0] = bad
    with_it, tally = clip_examples(Computation(model=_model(), loss_fn=_loss), _split(spoilt, 3), UNIT, flat(0.7))
    moved = torch.cat([(with_it.sums[n] - clean.sums[n]).flatten() for n in clean.sums]).norm()
    if bad == 1e38:  # saturates tanh: finite, and then clipped like any row
        assert float(moved) <= UNIT.presence
    else:
        assert float(moved) < 1e-6
        assert tally.num_nonfinite == 1
    assert tally.num_rows == 9


def test_an_empty_batch_is_a_zero_sum():
    reduced = []
    clipped, tally = clip_examples(
        Computation(model=_model(), loss_fn=_loss),
        [],
        UNIT,
        flat(0.7),
        reduce=lambda flat_sum: reduced.append(flat_sum),
    )
    assert all(bool((total == 0).all()) for total in clipped.sums.values())
    assert tally.num_rows == 0
    assert tally.mean_loss == 0.0
    assert len(reduced) == 1  # an empty share still takes part in the all-reduce


def test_records_that_could_not_be_read_are_counted():
    unreadable = MicroBatch(batch=None, valid=torch.zeros(4, dtype=torch.bool), failures=("OSError", "OSError"))
    half = MicroBatch(batch=_rows(4), valid=torch.tensor([True, True, True, False]), failures=("OSError",))
    _, tally = clip_examples(Computation(model=_model(), loss_fn=_loss), [unreadable, half], UNIT, flat(0.7))
    assert (tally.num_rows, tally.num_failed) == (6, 3)


def test_the_all_reduce_carries_sums_and_counts():
    def double(flat_sum):
        flat_sum.mul_(2)

    computation = Computation(model=_model(), loss_fn=_loss)
    one, counts = clip_examples(computation, _split(_rows(6), 3), UNIT, flat(0.7))
    two, doubled = clip_examples(computation, _split(_rows(6), 3), UNIT, flat(0.7), reduce=double)
    assert all(torch.equal(two.sums[name], 2 * one.sums[name]) for name in one.sums)
    assert doubled.num_rows == 2 * counts.num_rows


@pytest.mark.parametrize("scale", [1.0, 1024.0, 2.0**-8])
def test_the_loss_scale_changes_nothing(scale):
    plain, _ = clip_examples(Computation(model=_model(), loss_fn=_loss), _split(_rows(6), 3), UNIT, flat(0.7))
    scaled, _ = clip_examples(
        Computation(model=_model(), loss_fn=_loss, loss_scale=scale), _split(_rows(6), 3), UNIT, flat(0.7)
    )
    for name, total in plain.sums.items():
        torch.testing.assert_close(scaled.sums[name], total, rtol=1e-4, atol=1e-6)


def test_frozen_parameters_are_not_in_the_sum():
    model = _model()
    model[0].weight.requires_grad_(False)
    clipped, _ = clip_examples(Computation(model=model, loss_fn=_loss), _split(_rows(4), 2), UNIT, flat(0.7))
    assert "0.weight" not in clipped.sums
    assert "0.bias" in clipped.sums


def test_gradient_checkpointing_gives_the_same_sum():
    class Checkpointed(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = _model()

        def forward(self, x):
            return torch.utils.checkpoint.checkpoint(self.body, x, use_reentrant=False)

    plain, _ = clip_examples(Computation(model=_model(), loss_fn=_loss), _split(_rows(6), 3), UNIT, flat(0.7))
    saved, _ = clip_examples(Computation(model=Checkpointed(), loss_fn=_loss), _split(_rows(6), 3), UNIT, flat(0.7))
    for name, total in plain.sums.items():
        torch.testing.assert_close(saved.sums[f"body.{name}"], total, rtol=1e-6, atol=1e-7)


def _engine_that(**lies):
    """An engine whose answer is changed after the fact."""

    def clipped_sum(*args, **options):
        result = norms.clipped_sum(*args, **options)
        changed = {name: change(result) for name, change in lies.items()}
        fields = ("grads", "norms", "factors", "losses")
        return replace(result, **{f: changed.get(f, getattr(result, f)) for f in fields})

    return Engine(clipped_sum=clipped_sum)


@pytest.mark.parametrize(
    ("lies", "message"),
    [
        ({"factors": lambda r: r.factors * 3}, "above its clip norm"),
        ({"factors": lambda r: r.factors.clamp(min=1e-3)}, "padding or not finite"),
        ({"grads": lambda r: {n: g * float("nan") for n, g in r.grads.items()}}, "not finite"),
    ],
)
def test_an_engine_that_breaks_its_word_is_caught(lies, message):
    computation = Computation(model=_model(), loss_fn=_loss, engine=_engine_that(**lies))
    with pytest.raises(AssertionError, match=message):
        clip_examples(computation, _split(_rows(5), 2), UNIT, flat(0.7))


def test_coupled_rows_are_refused():
    def coupled(model, batch):
        losses = _loss(model, batch)
        return losses / losses.detach().mean()

    with pytest.raises(Refused):
        clip_examples(Computation(model=_model(), loss_fn=coupled), _split(_rows(4), 4), UNIT, flat(0.7))


def test_each_unit_has_its_own_rule():
    with pytest.raises(BadInput, match="its own rule"):
        clip_factor(UNIT, flat(1.0))
    with pytest.raises(Refused, match="no mechanism"):
        clip_factor(object())  # pyright: ignore[reportArgumentType]
