"""A classifier on frozen features: private, not private, on private labels, and what its card says of its start."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.data.hospital import build_hospital
from tests.once import only_whole

from sfumato import data
from sfumato.base import BadInput
from sfumato.base.errors import UndecodableRow
from sfumato.base.rounding import upper
from sfumato.cli import main
from sfumato.recipes import classifier, logit_dp
from sfumato.recipes.config import write_config
from sfumato.recipes.execute import _composition, train_run
from sfumato.recipes.finetune import finetune
from sfumato.recipes.make import make
from sfumato.recipes.run import Data, Run
from sfumato.recipes.trained import class_numbers, open_trained


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("encoder") / "run"
    run = logit_dp("shapes:300", out)
    privacy = replace(run.privacy, epsilon=None, noise_multiplier=1.0, expected_batch_size=12, steps=2)
    train_run(replace(run, privacy=privacy, training=replace(run.training, micro_batch_size=8)))
    return out


def with_delta(run: Run) -> Run:
    """So few records need a delta of their own."""
    return replace(run, privacy=replace(run.privacy, delta=1e-4))


def test_the_whole_way(encoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "classes"
    command = ["finetune", str(encoder), "--data", "shapes:500", "--out", str(out), "--steps", "20"]
    assert main([*command, "--epsilon", "50", "--expected-batch-size", "250"]) == 0
    card = json.loads((out / "export" / "card.json").read_text())
    assert 0 < card["epsilon"] <= 50
    own = json.loads((encoder / "export" / "card.json").read_text())["epsilon"]
    assert upper(own, 4) in card["left_out"]["start"], "the encoder's own claim adds up with this one"
    assert main(["evaluate", str(out), "--limit", "200"]) == 0
    found = json.loads((out / "export" / "metrics.json").read_text())["suites"]["classify"]
    assert found["n"] == 200
    assert 0 <= found["accuracy"] <= 1
    saved = classifier.load(out)
    assert len(saved.classes) == 36
    picture = tmp_path / "picture.png"
    picture.write_bytes(b"no picture")
    capsys.readouterr()
    assert main(["predict", str(out), str(picture), "--jsonl"]) == 1
    assert json.loads(capsys.readouterr().out)["error"]


@only_whole
def test_it_learns_where_there_is_no_noise(encoder: Path, tmp_path: Path) -> None:
    out = tmp_path / "classes"
    command = ["finetune", str(encoder), "--data", "shapes:1500", "--out", str(out), "--non-private", "--steps", "60"]
    assert main([*command, "--expected-batch-size", "750", "--learning-rate", "0.3"]) == 0
    assert not (out / "export" / "card.json").exists()
    assert main(["evaluate", str(out), "--limit", "500"]) == 0
    found = json.loads((out / "export" / "metrics.json").read_text())["suites"]["classify"]
    assert found["accuracy"] > 1.5 * found["majority"]


def test_features_are_those_of_the_encoder_scaled_row_by_row(encoder: Path, tmp_path: Path) -> None:
    made = make(with_delta(finetune(encoder, "shapes:40", tmp_path)))
    trained, scenes = open_trained(encoder), data.shapes(40, image_size=32, scenes="single")
    pixels = np.stack([trained.preprocess.evaluate(scenes[i]["image"]).numpy() for i in range(40)])
    want = trained.features(pixels)
    want = want / np.linalg.norm(want, axis=1, keepdims=True)
    got = np.stack([made.rows[i]["features"].numpy() for i in range(40)])
    np.testing.assert_allclose(got, want, atol=1e-5)
    assert [int(made.rows[i]["label"]) for i in range(40)] == scenes.labels.tolist()


def test_other_classes_are_another_data_set(encoder: Path, tmp_path: Path) -> None:
    run = with_delta(finetune(encoder, "shapes:20", tmp_path))
    names = make(run).sets.train.class_names
    assert names is not None
    turned = replace(run, data=replace(run.data, classes=names[::-1]))
    sources = {make(one).rows.manifest()["source"] for one in (run, turned, run)}
    assert len(sources) == 2


def test_a_start_that_is_named_by_its_export_is_charged_for_too(encoder: Path, tmp_path: Path) -> None:
    for name in (encoder, encoder / "export"):
        run = finetune(encoder, "shapes:20", tmp_path)
        told = _composition(replace(run, model=replace(run.model, init=str(name))))
        assert "add up" in told["start"]
    assert _composition(replace(run, model=replace(run.model, init=str(tmp_path)))) == {}


def test_rows_of_undeclared_classes_have_no_loss() -> None:
    model = classifier.Classifier(3, 2)
    batch = {"features": torch.ones(3, 3), "label": torch.tensor([0, -1, 1])}
    losses = classifier.class_loss(model, batch)
    assert losses[1] == 0
    assert (losses[[0, 2]] > 0).all()
    losses.sum().backward()
    assert model.head.bias.grad is not None
    assert model.head.bias.grad.abs().sum() == 0, "one row of each class: opposite gradients, none of the undeclared"


def test_private_labels_need_declared_classes(tmp_path: Path) -> None:
    export = build_hospital(tmp_path, num_patients=6, num_broken=0)
    columns = data.Columns(image="file", caption="text", owner="patient", label="patient")
    private = data.image_folder(export.root, export.table, columns=columns, decoder=data.Decoder(window=(0, 4095)))
    with pytest.raises(BadInput, match="--classes"):
        class_numbers(private, ())
    numbers, names = class_numbers(private, ("P0001", "P0000"))
    assert names == ("P0001", "P0000")
    assert private.class_names is not None
    want = [
        names.index(private.class_names[label]) if private.class_names[label] in names else -1
        for label in private.labels
    ]
    assert numbers.tolist() == want
    assert -1 in want
    with pytest.raises(BadInput, match="--label-column"):
        class_numbers(replace(private, rows=replace(private.rows, numbers=None)), names)


def test_a_row_that_could_not_be_read_stays_a_row() -> None:
    scenes = data.shapes(3)
    rows = data.FeatureRows(
        captioned=scenes,
        columns={"features": np.ones((3, 2), np.float32), "label": np.arange(3)},
        readable=np.array([True, False, True]),
        source="x",
    )
    assert len(rows) == 3
    assert rows[2]["label"] == 2
    with pytest.raises(UndecodableRow):
        rows.draw(1, np.random.default_rng(0))
    with pytest.raises(BadInput, match="2 rows"):
        data.FeatureRows(captioned=scenes, columns={"x": np.ones(2)}, readable=np.ones(3, bool), source="x")


@pytest.mark.parametrize("folder", ["nowhere", "."])
def test_no_run_is_named(tmp_path: Path, folder: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["finetune", str(tmp_path / folder), "--data", "shapes:40"]) == 2
    assert "not the folder of a run" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("trained", "asked", "spec", "want"),
    [
        ("shapes:300", "single", "shapes:40", "single"),
        ("shapes:300", "single", "shape-questions:40", "mixed"),
        ("shape-questions:300", "lone", "shapes:40", "mixed"),
        ("shapes:300", "single", "fashion-mnist", "mixed"),
        ("shapes:300", "single", "scans/", "mixed"),
        ("emoji", "mixed", "shapes:40", "mixed"),
    ],
)
def test_only_what_the_new_data_reads_is_taken_over(
    tmp_path: Path, trained: str, asked: str, spec: str, want: str
) -> None:
    run = logit_dp(trained, tmp_path / "encoder")
    write_config(replace(run, data=replace(run.data, scenes=asked, holdout=0.2, num=7, seed=3)))
    found = finetune(tmp_path / "encoder", spec)
    assert found.data == Data(spec=spec, scenes=want)
    assert (found.model.image_size, found.model.channels) == (run.model.image_size, run.model.channels)
