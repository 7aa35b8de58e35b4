"""Contrastive runs: what the settings become, what is refused, and the whole way from training to prediction."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import binom
from tests.models.pairs import PREPROCESS, tiny_pair
from torch.utils.data import default_collate

from sfumato import data, models
from sfumato.base import BadInput
from sfumato.cli import main
from sfumato.cli.train import TrainCommand, run_of
from sfumato.models.pair_start import choose_pair
from sfumato.plan import Group, InfoNCE, Pair, Sigmoid
from sfumato.recipes import Run, dp_clip, dp_gcl, frozen, logit_dp, trained
from sfumato.recipes.config import read_config, write_config
from sfumato.recipes.execute import train_run, train_twin
from sfumato.recipes.frozen import feature_rows, pictures_stay
from sfumato.recipes.logit_dp import with_views
from sfumato.recipes.make import make
from sfumato.recipes.trained import open_trained

RECIPES = {
    "dp-clip": lambda out: dp_clip("shapes:300", out),
    "dp-gcl": lambda out: dp_gcl("shapes:300", out),
    "captions": lambda out: logit_dp("shapes:300", out, "captions"),
    "views": lambda out: logit_dp("shapes:300", out),
    "clip of views": lambda out: with_views(dp_clip("shapes:300", out)),
}


def small(run: Run) -> Run:
    privacy = replace(run.privacy, epsilon=None, noise_multiplier=1.0, expected_batch_size=12, steps=2)
    return replace(run, privacy=privacy, training=replace(run.training, micro_batch_size=8, warmup_steps=1))


def test_what_the_recipes_clip() -> None:
    units = {name: make(small(recipe(Path("x")))).plan.unit for name, recipe in RECIPES.items()}
    assert (units["dp-clip"].num_groups, units["clip of views"].num_groups) == (1, 1)
    assert units["dp-gcl"].num_groups == 2, "12 expected records in groups of 8"
    for name in ("captions", "views"):
        assert isinstance(units[name], Pair)
        overflow = binom.sf(units[name].largest_draw - 1, 300, 12 / 300)
        assert 1e-20 < overflow <= 1e-18, "the least number that no draw passes"
        assert units[name].loss == InfoNCE(temperature=0.5)


def test_runs_survive_json(tmp_path: Path) -> None:
    for recipe in RECIPES.values():
        run = recipe(tmp_path)
        write_config(run)
        assert read_config(tmp_path) == run


def flags(recipe: Any, **more: Any) -> TrainCommand:
    return TrainCommand(recipe=recipe, data="shapes:300", **more)


def test_flags_reach_unit_loss_and_sampler() -> None:
    run = run_of(flags("logit-dp", loss="sigmoid", temperature=0.4, bias=-3.0, norms="bound", cap=50, embed_dim=4))
    plan = make(small(run)).plan
    assert plan.unit.loss == Sigmoid(temperature=0.4, bias=-3.0)
    assert (plan.unit.norms, plan.unit.largest_draw, plan.sampler.cap) == ("bound", 50, 50)
    run = run_of(flags("dp-gcl", num_groups=5, views=2, jitter=True, train_temperature=True))
    assert run.loss.temperature == 1.0, "the towers have a scale of their own"
    made = make(small(run))
    assert isinstance(made.plan.unit, Group)
    assert (made.plan.unit.num_groups, made.plan.unit.views) == (5, 2)
    assert made.loss_fn.log_scale == "logit_scale"
    assert "logit_scale" in made.training.trainable


@pytest.mark.parametrize(
    ("recipe", "more", "said"),
    [
        ("dp-cap", {"temperature": 0.1}, "temperature"),
        ("dp-clip", {"num_groups": 4}, "num-groups"),
        ("dp-gcl", {"norms": "bound"}, "norms"),
        ("logit-dp", {"train_temperature": True}, "train-temperature"),
        ("logit-dp", {"views": 2}, "views"),
        ("logit-dp", {"vocabulary": "x"}, "vocabulary"),
        ("dp-gcl", {"contrast": "views", "max_tokens": 9}, "max-tokens"),
        ("dp-gcl", {"epsilon": 1.0, "noise_multiplier": 1.0}, "one of"),
        ("dp-gcl", {"loss": "spread-out", "temperature": 0.1}, "no --temperature"),
        ("dp-gcl", {"bias": 1.0}, "infonce has no --bias"),
    ],
)
def test_flags_that_would_be_ignored_are_refused(recipe: str, more: dict[str, Any], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        run_of(flags(recipe, **more))


def test_what_does_not_fit_is_named_before_the_first_step() -> None:
    run = small(dp_gcl("shapes:300"))
    with pytest.raises(BadInput, match="one row 3 times"):
        make(replace(run, privacy=replace(run.privacy, views=3)))
    with pytest.raises(BadInput, match="couples rows"):
        make(replace(run, privacy=replace(run.privacy, unit="example")))
    with pytest.raises(BadInput, match="infonce, sigmoid or spread-out"):
        make(replace(run, loss=replace(run.loss, kind="triplet")))
    with pytest.raises(BadInput, match="captioner, towers"):
        make(replace(run, model=replace(run.model, kind="tower")))
    views = with_views(run)
    with pytest.raises(BadInput, match="no --dropout"):
        make(replace(views, model=replace(views.model, dropout=0.1)))
    packaged = replace(run.model, init="lit", image_size=224)
    with pytest.raises(BadInput, match="no --size"):
        make(replace(run, model=packaged))
    pairs = small(logit_dp("shapes:300"))
    with pytest.raises(BadInput, match="flat"):
        make(replace(pairs, privacy=replace(pairs.privacy, clip="automatic")))


def test_heads_of_pretrained_towers_are_a_setting_that_can_be_seen() -> None:
    """Nothing is frozen silently: the run says heads, and `--train all` is what it says."""
    assert run_of(flags("dp-gcl", init="lit")).model.train == "heads"
    assert run_of(flags("dp-gcl", init="lit", train="all")).model.train == "all"
    model = run_of(flags("dp-gcl", init="lit")).model
    assert (model.image_size, model.channels, model.size) == (224, 3, None)


def test_the_twin_carries_no_card(tmp_path: Path) -> None:
    for name in ("dp-gcl", "views"):
        run = replace(small(RECIPES[name](tmp_path / name)), private=False)
        train_twin(run)
        assert (run.out / "export" / "NOT_PRIVATE.md").is_file()
        assert not (run.out / "export" / "card.json").exists()
        assert open_trained(run.out).kind == run.model.kind


def test_the_whole_way_of_two_towers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = small(dp_gcl("shapes:300", tmp_path / "run"))
    seen: list[Any] = []
    train_run(run, on_progress=seen.append)
    assert all(progress.measured > 0 for progress in seen), "the course is measured on public held-out pictures"
    assert main(["evaluate", str(run.out), "--suite", "zeroshot,retrieval,knn", "--limit", "60"]) == 0
    found = json.loads((run.out / "export" / "metrics.json").read_text())["suites"]
    assert set(found) == {"zeroshot", "retrieval", "knn"}
    assert not any("skipped" in suite for suite in found.values())
    picture = tmp_path / "picture.png"
    Image.fromarray(data.shapes(1)[0]["image"]).save(picture)
    capsys.readouterr()
    words = ["a small red circle", "two large blue squares"]
    assert main(["predict", str(run.out), str(picture), "--labels", *words, "--jsonl"]) == 0
    assert json.loads(capsys.readouterr().out)["caption"] in words
    for wrong, said in (([], "--labels"), (["--labels", "a red circle above a small blue square"], "reads 6 at most")):
        assert main(["predict", str(run.out), str(picture), *wrong]) == 2
        assert said in capsys.readouterr().err
    assert main(["report", str(run.out), "--open", "no"]) == 0
    assert main(["export", str(run.out), "--out", str(tmp_path / "handed-on")]) == 0
    one, two = (models.load_dual(folder) for folder in (run.out, tmp_path / "handed-on"))
    ids = one.tokenizer.encode_texts(words, 6)
    assert torch.equal(one.embed.texts(one.model, ids), two.embed.texts(two.model, ids))


def test_untrained_towers_of_the_evaluation_are_those_that_training_began_with(tmp_path: Path) -> None:
    run = small(dp_gcl("shapes:300", tmp_path / "run"))
    made = make(run)
    pictures = np.random.default_rng(0).standard_normal((3, 3, 32, 32)).astype(np.float32)
    at_start = open_trained_start(made, pictures)
    train_run(run, made=made)
    subject = open_trained(run.out).subject(made.sets)
    np.testing.assert_allclose(subject.encode_at_random(pictures), at_start, atol=1e-6)
    assert np.abs(subject.encode(pictures) - at_start).max() > 1e-4


def open_trained_start(made: Any, pictures: np.ndarray) -> np.ndarray:
    embed = made.loss_fn.embed
    with models.evaluating(made.model):
        read = getattr(embed, "features", embed.images)
        return read(made.model, torch.from_numpy(pictures)).numpy()


def test_features_of_frozen_towers_train_as_pictures_do() -> None:
    """Heads on cached features: the same embeddings as from pictures, row by row; an unreadable row stays a row."""
    tokenizer = models.Tokenizer.from_public_text(data.shapes_vocabulary())
    model = tiny_pair(tokenizer)
    started = models.StartedTowers(
        model=model,
        embed=models.Towers(kind="pair", pad_id=model.pad_id),
        tokenizer=tokenizer,
        preprocess=PREPROCESS,
        training=choose_pair(model, "heads"),
        notes=(),
        log_scale=None,
    )
    assert pictures_stay(started)
    assert not pictures_stay(replace(started, training=choose_pair(model, "all")))
    choose_pair(model, "heads")
    scenes = data.shapes(5, image_size=32)
    rows = data.PairRows(
        captioned=scenes,
        preprocess=data.Preprocess(image_size=16, augment="none"),
        encode=lambda captions: tokenizer.encode_texts(captions, 12),
        max_tokens=12,
        vary_captions=False,
        text_name="input_ids",
    )
    cached = feature_rows(started, rows)
    assert len(cached) == 5
    assert cached.readable.all()
    batch = default_collate([rows[i] for i in range(5)])
    features = default_collate([cached[i] for i in range(5)])
    with models.evaluating(started.model):
        for one, two in zip(
            started.embed(started.model, batch), models.HeadTowers()(started.model, features), strict=True
        ):
            torch.testing.assert_close(one, two, atol=1e-6, rtol=1e-5)


def test_what_a_frozen_tower_said_once_is_remembered_row_by_row() -> None:
    asked: list[list[int]] = []

    def compute(places: list[int]) -> torch.Tensor:
        asked.append(places)
        return torch.tensor([[float(place), 1.0] for place in places])

    rows = [np.full(3, value, np.float32) for value in (0.25, 0.5, 0.75)]
    cpu = torch.device("cpu")
    first = frozen.recall(rows[:2], b"tower", compute, cpu)
    again = frozen.recall([rows[1], rows[2], rows[0]], b"tower", compute, cpu)
    assert asked == [[0, 1], [1]], "only the new row is computed"
    assert torch.equal(again[[2, 0]], first)
    frozen.recall(rows[:1], b"another tower", compute, cpu)
    assert asked[-1] == [0], "other weights say something else"
    for key in [key for key in frozen.known() if len(frozen.known()[key]) == 2]:
        frozen.known().pop(key)


def test_a_pair_that_is_evaluated_remembers_its_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Read back, nothing of a model is marked as frozen; the pictures are asked for again and again all the same."""
    tokenizer = models.Tokenizer.from_public_text(data.shapes_vocabulary())
    pairs = [tiny_pair(tokenizer) for _ in range(2)]
    embed = models.Towers(kind="pair", pad_id=pairs[0].pad_id)
    started = models.StartedTowers(
        model=pairs[0], embed=embed, tokenizer=tokenizer, preprocess=PREPROCESS, notes=(), log_scale=None,
        training=choose_pair(pairs[0], "heads"),
    )  # fmt: skip
    words = SimpleNamespace(max_tokens=12, tokenizer=tokenizer)
    monkeypatch.setattr(trained, "start_towers", lambda run, train: (started, words))
    loaded = models.LoadedTowers(
        model=pairs[1].requires_grad_(True), embed=embed, tokenizer=tokenizer, preprocess=PREPROCESS
    )
    opened = trained.Trained(run=dp_gcl("shapes:9", tmp_path), loaded=loaded, preprocess=data.Preprocess(image_size=16))
    subject = opened.subject(SimpleNamespace(train=None))  # type: ignore[arg-type]
    calls: list[int] = []
    pairs[1].image.tower.register_forward_hook(lambda module, inputs, output: calls.append(len(inputs[0])))
    pictures = np.random.default_rng(3).standard_normal((4, 3, 16, 16)).astype(np.float32)
    first = subject.encode(pictures)
    assert np.array_equal(subject.encode(pictures), first)
    assert calls == [4], "computed once"
