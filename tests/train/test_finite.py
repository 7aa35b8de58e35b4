"""Released weights that are not finite end a run, after the charge and before a checkpoint takes them over."""

from pathlib import Path

import pytest
import torch
from tests.train.case import STEPS, Records, loss_fn, make_model, make_plan
from torch.optim.lr_scheduler import LambdaLR

from sfumato.base import BadInput, ledger
from sfumato.train import Trainer, check_finite, train_without_privacy
from sfumato.train.checkpoint import complete, read

BREAKS = 5  # the step, counted from 1, that destroys the weights


def _rate(step: int) -> float:
    return 1.0 if step < BREAKS - 1 else float("inf")


def _trainer(out: Path) -> Trainer:
    model = make_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    return Trainer(
        model=model,
        loss_fn=loss_fn,
        dataset=Records(),
        plan=make_plan(),
        out=out,
        optimizer=optimizer,
        scheduler=LambdaLR(optimizer, _rate),
        micro_batch_size=4,
        checkpoint_every=2,
        ema_decay=0.9,
        seed=1,
    )


def _charged(out: Path) -> int:
    return len(ledger.read(out / "private" / "ledger.jsonl").steps)


def test_a_run_stops_once_and_charges_once(tmp_path: Path) -> None:
    for _ in range(2):  # the same call again replays the steps after the checkpoint, and stops at the same place
        with pytest.raises(BadInput, match=rf"after step {BREAKS} the released weights are not finite") as told:
            _trainer(tmp_path).fit()
        assert "--learning-rate" in str(told.value)
        assert _charged(tmp_path) == BREAKS < STEPS
        last = complete(tmp_path / "private" / "checkpoints")[-1]
        assert last.name == f"step-{BREAKS - 1:08d}"
        weights = [value for value in read(last)["model"].values() if isinstance(value, torch.Tensor)]
        assert weights
        assert all(torch.isfinite(value).all() for value in weights)
        assert not (tmp_path / "export" / "card.json").exists()


def test_the_baseline_stops_too() -> None:
    model = make_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    seen: list[int] = []
    with pytest.raises(BadInput, match=f"after step {BREAKS}"):
        train_without_privacy(
            model,
            loss_fn,
            Records(),
            make_plan(noise_multiplier=0.0),
            optimizer=optimizer,
            scheduler=LambdaLR(optimizer, _rate),
            micro_batch_size=4,
            on_step=lambda step, loss: seen.append(step),
        )
    assert seen == list(range(1, BREAKS))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_one_number_is_enough(value: float) -> None:
    model = make_model()
    check_finite(model, 1)
    with torch.no_grad():
        model[0].weight[3, 2] = value  # pyright: ignore[reportIndexIssue, reportArgumentType]
    with pytest.raises(BadInput, match="after step 7"):
        check_finite(model, 7)
    model[0].weight.requires_grad_(False)  # frozen weights are not what a run trains
    check_finite(model, 7)


def test_a_model_without_trainable_weights_is_left_alone() -> None:
    check_finite(make_model().requires_grad_(False), 1)
