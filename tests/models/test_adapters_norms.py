"""Norms and clipped sums of every choice of what trains against the oracle; frozen weights are never measured."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from tests.models.adapted import CASES, Case, answer_loss, causal_loss, llava, moved, pictured, small

from sfumato.base import BadInput, Refused
from sfumato.models import Adapter, adapt
from sfumato.norms import Outer, Rows, Tape, clipped_sum, oracle_sum, prepare

TRAINS = ("all", "heads", "last-1", "bias", "lora", "dora")
REFUSED = {("t5", "bias")}


def adapted(case: Case, train: str, adapter: Adapter | None = None, **settings):
    found = adapt(case.make().double(), train, adapter or small(train), **settings)
    moved(found.model).train()
    return found


def both(case: Case, model, batch=None, seed=None, tolerance=1e-10, synthetic=None):
    """Compare the two, clipping half of the rows."""
    batch = batch or case.rows()
    measured = prepare(model, case.loss, batch, synthetic=synthetic)
    norms = oracle_sum(model, case.loss, batch, measured, torch.ones_like).norms
    bound = norms.median() * 0.9

    def factor(norms):
        return (bound / norms).clamp(max=1)

    results = []
    for compute in (clipped_sum, oracle_sum):
        if seed is not None:
            torch.manual_seed(seed)
        results.append(compute(model, case.loss, batch, measured, factor))
    found, wanted = results
    assert bool((wanted.norms > 0).all())
    assert bool((wanted.factors < 1).any())
    assert found.grads.keys() == wanted.grads.keys()
    torch.testing.assert_close(found.norms, wanted.norms, rtol=tolerance, atol=0)
    largest = max(float(grad.abs().max()) for grad in wanted.grads.values())
    for name, grad in wanted.grads.items():
        assert float((found.grads[name] - grad).abs().max()) <= tolerance * largest, name
    return found


@pytest.mark.every(10)
@pytest.mark.parametrize(("name", "train"), [(name, train) for name in CASES for train in TRAINS])
def test_equals_the_oracle(name: str, train: str) -> None:
    case = CASES[name]
    if (name, train) in REFUSED:
        with pytest.raises(BadInput, match=f"train={train}.*{type(case.make()).__name__}"):
            adapted(case, train)
        return
    found = adapted(case, train, reach=case.reach)
    assert both(case, found.model).grads.keys() == set(found.training.trainable)


@pytest.mark.parametrize("train", ["lora", "dora"])
def test_all_linear_with_a_head_that_trains_whole(train: str) -> None:
    case = CASES["llama, filled left"]
    found = adapted(case, train, Adapter(rank=2, targets="all-linear", modules_to_save=("lm_head",)))
    assert "lm_head.modules_to_save.default.weight" in found.training.trainable
    assert any("gate_proj.lora_A" in name for name in found.training.trainable)
    both(case, found.model)


@pytest.mark.every(2)
@pytest.mark.parametrize("train", ["lora", "dora"])
def test_dropout_of_the_adapter_is_exact(train: str) -> None:
    case = CASES["llama, filled right"]
    model = adapted(case, train, Adapter(rank=2, dropout=0.4)).model
    drops = [both(case, model, seed=seed).norms for seed in (1, 2)]
    assert not torch.equal(*drops), "dropout is not on"


@pytest.mark.parametrize("train", ["lora", "dora"])
def test_frozen_weights_are_never_measured(train: str) -> None:
    case = CASES["llama, filled right"]
    found = adapted(case, train)
    model, batch = found.model, case.rows()
    measured = prepare(model, case.loss, batch)
    parameters = measured.parameters(model)
    tape = Tape(parameters, measured.certified(4), 4)
    frozen = {name: param for name, param in model.named_parameters() if name in found.training.frozen}
    with tape:
        losses = case.loss(model, batch)
        tape.replaying = True
        torch.autograd.grad(losses.sum(), [tape.anchor, *parameters.values()], allow_unused=True)
    assert tape.slots
    behind = frozenset().union(*(tape.tracked.names(slot.call.operands) for slot in tape.slots))
    assert behind == set(found.training.trainable)
    assert frozen.keys() >= {"model.layers.0.self_attn.q_proj.base_layer.weight"}
    assert all(param.grad is None and not param.requires_grad for param in frozen.values())
    largest = max(param.numel() for param in parameters.values())
    for key, factors in tape.factors.items():
        for factor in factors:
            assert isinstance(factor, (Outer, Rows))
            values = factor.shape.numel() if isinstance(factor, Outer) else factor.values[0].numel()
            assert values == tape.tracked.tensor(key).numel() <= largest == 2 * 16


@pytest.mark.every(3)
@pytest.mark.parametrize(
    ("train", "dtype"), [(train, dtype) for train in ("lora", "dora") for dtype in ("bfloat16", "float16")]
)
def test_half_precision_frozen_weights(train: str, dtype: str) -> None:
    case = CASES["llama, filled left"]

    def loss(model: Any, batch: dict[str, Any]) -> Any:
        """With a mask of four dimensions, which is never left out: a row's path is one whatever its words are."""
        mask, length = batch["attention_mask"].bool(), batch["attention_mask"].shape[1]
        causal = torch.ones(length, length, dtype=torch.bool).tril() & (mask[:, None, None] | torch.eye(length).bool())
        logits = model(**{**batch, "attention_mask": causal}, use_cache=False).logits
        return answer_loss(logits, batch).float()

    plain = case
    case = replace(case, loss=loss)
    model = case.make()
    found = adapt(model, train, small(train, frozen_dtype=dtype), reach=case.reach)
    params = dict(found.model.named_parameters())
    assert {params[name].dtype for name in found.training.trainable} == {torch.float32}
    assert {params[name].dtype for name in found.training.frozen} == {getattr(torch, dtype)}
    moved(found.model).train()
    both(case, found.model, tolerance=0.05)
    with pytest.raises(Refused, match="a row's path must not depend on its values"):
        prepare(found.model, lambda model, batch: plain.loss(model, batch).float(), case.rows())


def test_half_precision_of_pictures() -> None:
    case = CASES["clip"]
    found = adapt(case.make(), "lora", small("lora", frozen_dtype="bfloat16"))
    model = moved(found.model).train()

    def without_mask(model: Any, batch: dict[str, Any]) -> Any:  # one of ones is left out: another path
        return case.loss(model, {name: rows for name, rows in batch.items() if name != "attention_mask"}).float()

    loss = replace(case, loss=without_mask)
    both(loss, model, case.rows(torch.float32), tolerance=0.05)


def test_a_model_that_puts_pictures_among_words() -> None:
    case = Case(llava, pictured, causal_loss)
    found = adapt(case.make().double(), "lora", small("lora"), reach=case.reach)
    model, batch = moved(found.model).eval(), case.rows()
    both(case, model, synthetic=pictured)
    other = {**batch, "pixel_values": batch["pixel_values"].flip(0)}
    moves = (case.loss(model, batch) - case.loss(model, other)).detach().abs()
    assert float(moves.min()) > 1e-6
