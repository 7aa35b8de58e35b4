"""The captioner, real data and real engine together: a few steps, resumed, in low precision, with workers."""

import pytest
import torch
from tests.train.case import bits

import sfumato as sf
from sfumato.data import PairRows, Preprocess, shapes, shapes_vocabulary
from sfumato.losses import caption_loss
from sfumato.models import Tokenizer, build
from sfumato.train import Trainer, warmup_cosine

NUM_RECORDS = 40


def _trainer(out, *, plan_steps=4, **changes):
    captioned = shapes(NUM_RECORDS, image_size=16)
    tokenizer = Tokenizer.from_public_text(shapes_vocabulary())
    model = build("micro", vocab_size=tokenizer.vocab_size, image_size=16, max_tokens=12, seed=0, dropout=0.1)
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    settings = {
        "model": model,
        "loss_fn": caption_loss,
        "dataset": PairRows(
            captioned=captioned,
            preprocess=Preprocess(image_size=16),
            encode=lambda texts: tokenizer.encode(texts, 12),
            max_tokens=12,
        ),
        "plan": sf.Plan(
            unit=sf.Example(clip_norm=1.0),
            sampler=sf.Poisson(num_records=NUM_RECORDS, expected_batch_size=10),
            steps=plan_steps,
            noise_multiplier=1.0,
        ),
        "out": out,
        "optimizer": optimizer,
        "scheduler": warmup_cosine(optimizer, warmup_steps=1, total_steps=plan_steps),
        "micro_batch_size": 8,
        "checkpoint_every": 2,
        "seed": 3,
    }
    return Trainer(**{**settings, **changes})


class _Stop(Exception):
    """As if the user had pressed Ctrl-C."""


def test_resumed_equals_uninterrupted(tmp_path):
    def interrupt(progress):
        if progress.step == 3:
            raise _Stop

    whole = _trainer(tmp_path / "whole")
    whole.fit()
    with pytest.raises(_Stop):
        _trainer(tmp_path / "cut", on_progress=interrupt, report_every=1).fit()
    resumed = _trainer(tmp_path / "cut")
    assert resumed.fit().epsilon == pytest.approx(whole.plan.epsilon())
    assert bits(resumed.model) == bits(whole.model)


@pytest.mark.parametrize(
    "changes", [{"autocast": torch.bfloat16}, {"num_workers": 2}, {"ema_decay": 0.9}], ids=lambda c: next(iter(c))
)
def test_variants_train(tmp_path, changes):
    trainer = _trainer(tmp_path, plan_steps=2, **changes)
    before = bits(trainer.model)
    assert trainer.fit().steps == 2
    assert bits(trainer.model) != before
    assert all(bool(p.isfinite().all()) for p in trainer.model.parameters())
