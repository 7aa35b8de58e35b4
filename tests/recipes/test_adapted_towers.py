"""LoRA on the text tower of a frozen pair: pictures' features are computed once, and what trains is the same."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.models.pairs import INSTALLED, PREPROCESS, tiny_pair
from tests.models.test_adapters_save import outside
from torch.utils.data import default_collate

from sfumato import data, models
from sfumato.models.pair_start import adapt_text
from sfumato.recipes import dp_gcl, measure
from sfumato.recipes.contrastive import make_towers
from sfumato.recipes.execute import train_run
from sfumato.recipes.frozen import feature_rows, pictures_stay
from sfumato.recipes.sets import Sets
from sfumato.recipes.trained import open_trained


def adapted() -> tuple[models.StartedTowers, models.Tokenizer]:
    tokenizer = models.Tokenizer.from_public_text(data.shapes_vocabulary())
    model = tiny_pair(tokenizer)
    training, notes = adapt_text(model, "lora", models.Adapter(rank=2), base="some-bert", seed=1)
    with torch.no_grad():
        for name in training.trainable:
            model.get_parameter(name).add_(0.05)
    embed = models.Towers(kind="pair", pad_id=model.pad_id)
    started = models.StartedTowers(
        model=model, embed=embed, tokenizer=tokenizer, preprocess=PREPROCESS, training=training, notes=notes,
        log_scale=None,
    )  # fmt: skip
    return started, tokenizer


def test_features_of_pictures_beside_a_text_tower_that_trains() -> None:
    """Embeddings and every gradient are those of the pictures, also after the adapter has moved."""
    started, tokenizer = adapted()
    assert pictures_stay(started)
    rows = data.PairRows(
        captioned=data.shapes(5, image_size=32),
        preprocess=data.Preprocess(image_size=16, augment="none"),
        encode=lambda captions: tokenizer.encode_texts(captions, 12),
        max_tokens=12,
        vary_captions=False,
        text_name="input_ids",
    )
    cached = feature_rows(started, rows)
    assert set(cached.columns) == {"image_features", "input_ids"}
    batch, features = (default_collate([some[i] for i in range(5)]) for some in (rows, cached))
    model = started.model
    for step in range(2):
        found = []
        for embed, given in ((started.embed, batch), (models.HeadTowers(), features)):
            u, v = embed(model, given)
            model.zero_grad()
            (u * v.roll(1, 0)).sum().backward()
            grads = {name: param.grad.clone() for name, param in model.named_parameters() if param.grad is not None}
            found.append((u, v, grads))
        for one, two in zip(found[0][:2], found[1][:2], strict=True):
            torch.testing.assert_close(one, two, atol=1e-6, rtol=1e-5)
        assert found[0][2].keys() == found[1][2].keys() == set(started.training.trainable)
        for name, grad in found[0][2].items():
            torch.testing.assert_close(found[1][2][name], grad, atol=1e-6, rtol=1e-4)
        if step == 0:
            with torch.no_grad():
                for name in started.training.trainable:
                    model.get_parameter(name).sub_(0.1 * found[0][2][name])


# As test_adapters_pair, of a run's export.
ELSEWHERE = """
import sys, torch, peft
sys.modules["sfumato"] = None
from transformers import BertModel
folder, ids, out = sys.argv[1:]
ids = torch.load(ids, weights_only=True)
text = BertModel.from_pretrained(f"{folder}/text", add_pooling_layer=False)
text = peft.PeftModel.from_pretrained(text, f"{folder}/text_adapter").eval()
with torch.no_grad():
    torch.save(text(input_ids=ids).last_hidden_state, out)
"""


@pytest.mark.slow
@pytest.mark.skipif(not INSTALLED, reason="the packages of the pretrained towers are not installed")
def test_pretrained_towers_with_an_adapter_go_the_whole_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    emoji = data.load("emoji")
    sets = Sets(train=emoji.select(range(20), name="few"), test=emoji.select(range(40, 52), name="others"))
    run = dp_gcl("emoji", tmp_path / "run")
    run = replace(
        run,
        data=replace(run.data, holdout=0.2),
        model=replace(run.model, size=None, init="lit", image_size=224, channels=3, train="lora"),
        adapter=replace(run.adapter, rank=2),
        privacy=replace(run.privacy, epsilon=None, noise_multiplier=1.0, expected_batch_size=8, steps=3),
        training=replace(run.training, augment="none", jitter=False, vary_captions=False, micro_batch_size=8),
    )
    made = make_towers(run, sets)
    assert isinstance(made.rows, data.FeatureRows), "the picture tower is asked once for each picture"
    assert sum("lora_" in name for name in made.training.trainable) == 2 * 24
    train_run(run, made=made)
    monkeypatch.setattr(measure, "sets_of", lambda settings, image_size: sets)
    found: Any = measure.evaluate_run(run.out, suites=["retrieval"])["suites"]["retrieval"]
    assert set(found["image_to_text"]) >= {"r1", "r10"}
    opened = open_trained(run.out).loaded
    ids = opened.tokenizer.encode_texts(["a red apple", "a cat"], 8)[:, :4]
    torch.save(ids, tmp_path / "ids.pt")
    outside(ELSEWHERE, str(run.out / "export"), str(tmp_path / "ids.pt"), str(tmp_path / "out.pt"))
    with torch.no_grad():
        ours = opened.model.text(input_ids=ids).last_hidden_state
    torch.testing.assert_close(torch.load(tmp_path / "out.pt", weights_only=True), ours, rtol=1e-5, atol=1e-5)
    moved = {n: p for n, p in opened.model.named_parameters() if "lora_B" in n}
    assert any(param.abs().max() > 0 for param in moved.values())
