"""Questions about pictures: what the settings become, what is refused, and the whole way from scratch."""

import json
import shutil
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.data.visual import build_vqa2
from tests.once import only_whole
from tests.recipes.asked import (
    PUBLIC_TEXT,
    SECRET_WORD,
    build_table,
    card_of,
    die_at,
    killed,
    scenes,
    scratch,
    small,
)

from sfumato import data, evaluate, models
from sfumato.base import BadInput, Refused
from sfumato.cli import main
from sfumato.cli.train import TrainCommand, run_of
from sfumato.plan import Example, Group
from sfumato.recipes import dp_vlm, dp_vqa
from sfumato.recipes.answering import answer_words
from sfumato.recipes.config import read_config, write_config
from sfumato.recipes.course import course_of
from sfumato.recipes.execute import train_run, train_twin
from sfumato.recipes.make import make
from sfumato.recipes.measure import evaluate_run
from sfumato.recipes.predict import predict
from sfumato.recipes.sets import sets_of
from sfumato.recipes.trained import open_trained


def flags(recipe: Any = "dp-vqa", **more: Any) -> TrainCommand:
    return TrainCommand(recipe=recipe, data="shape-questions:40", **{"image_size": 16, **more})


@pytest.fixture(scope="module")
def vqa2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vqa2")
    build_vqa2(folder, num_images=10)
    build_vqa2(folder, split="val", num_images=4, first_image=50, seed=1)
    (folder / "sentences.txt").write_text(PUBLIC_TEXT)
    return folder


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_table(tmp_path_factory.mktemp("table"))


# ---------------------------------------------------------------- settings


def test_runs_survive_json(tmp_path: Path) -> None:
    for run in (dp_vqa("shape-questions", tmp_path), dp_vqa("x", tmp_path, "y"), dp_vlm("easy-vqa", "y", tmp_path)):
        write_config(run)
        assert read_config(tmp_path) == run


def test_what_is_clipped() -> None:
    units = {
        "recipe": small(run_of(flags())),
        "views": small(run_of(flags(views=2))),
        "batch": small(run_of(flags(unit="batch"))),
        "groups": small(run_of(flags(unit="group", group_size=2.0, views=1))),
        "paper": small(replace(run_of(flags()), privacy=dp_vqa("vqa2:x").privacy)),
    }
    found = {name: make(run).plan.unit for name, run in units.items()}
    assert found == {
        "recipe": Example(clip_norm=1.0, views=4),
        "views": Example(clip_norm=1.0, views=2),
        "batch": Group(clip_norm=1.0, num_groups=1, views=4),
        "groups": Group(clip_norm=1.0, num_groups=3),
        "paper": Example(clip_norm=1.0),
    }
    assert (found["recipe"].presence, found["batch"].presence) == (1.0, 2.0)


def test_a_vlm_trains_through_lora_unless_told() -> None:
    run = run_of(TrainCommand(recipe="dp-vlm", data="easy-vqa", model="folder", rank=4, targets=("q_proj",)))
    assert (run.model.train, run.adapter.rank, run.adapter.targets) == ("lora", 4, ("q_proj",))
    run = run_of(TrainCommand(recipe="dp-vlm", data="easy-vqa", model="folder", train="last-2"))
    assert (run.model.train, run.model.init, run.model.size) == ("last-2", "folder", None)


def test_what_does_not_fit_is_named_before_the_first_step(tmp_path: Path) -> None:
    run = scenes()
    with pytest.raises(BadInput, match="leave out --question"):
        make(replace(run, asking=replace(run.asking, question="what is it?")))
    with pytest.raises(BadInput, match="--model, or a --size"):
        make(replace(run, model=replace(run.model, size=None)))
    with pytest.raises(BadInput, match="puts an adapter on a checkpoint"):
        make(replace(run, model=replace(run.model, train="lora")))
    with pytest.raises(BadInput, match="leave out --checkpointing"):
        make(replace(run, model=replace(run.model, checkpointing=True)))
    with pytest.raises(BadInput, match="leave out its settings"):
        make(replace(run, adapter=replace(run.adapter, rank=3)))
    with pytest.raises(BadInput, match="multiple of the patch"):
        make(replace(run, asking=replace(run.asking, image_size=20)))
    with pytest.raises(BadInput, match="brings its own words"):
        make(replace(run, model=replace(run.model, size=None, init=str(tmp_path), public_text="words.txt")))


def test_a_processor_that_changed_is_another_fingerprint() -> None:
    """Two vocabularies of one length: no shape, weight or public length tells them apart."""
    found = []
    for text in ("alpha beta gamma", "alpha beta delta"):
        words = models.Tokenizer.from_public_text([text])
        found.append(models.start_blip("micro", seed=0, tokenizer=words, image_size=16))
    one, other = found
    assert one.facts == other.facts
    assert one.digest != other.digest
    settings = [make(scenes()).settings["processor"] for _ in range(2)]
    assert settings[0] == settings[1]


# ---------------------------------------------------------------- public and private words


def test_private_questions_never_make_a_vocabulary(table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = run_of(
        TrainCommand(
            recipe="dp-vqa", data=str(table / "pictures"), captions=str(table / "questions.csv"), image_column="file",
            size="micro", image_size=16,
        )
    )  # fmt: skip
    train = sets_of(run.data, 16).train
    assert not train.public
    with pytest.raises(Refused, match="private"):
        train.to_spell()
    with pytest.raises(BadInput, match=r"questions and answers are private.*--vocabulary.*--public-text.*--model"):
        make(run)
    looked: list[int] = []
    monkeypatch.setattr(type(train.rows), "asked", lambda rows, row: looked.append(row))
    told = replace(run, model=replace(run.model, public_text=str(table / "sentences.txt")))
    tokenizer, origin = answer_words(told, train)
    assert looked == [], "no private question is read for the words"
    assert "sentences.txt" in origin
    assert SECRET_WORD not in tokenizer.vocabulary
    assert "green" in tokenizer.vocabulary


def test_public_questions_make_one_unless_another_is_given(tmp_path: Path) -> None:
    run, train = scenes(), data.shape_questions(6, image_size=16)
    tokenizer, origin = answer_words(run, train)
    assert "public questions" in origin
    assert {word for text in data.asked_vocabulary() for word in text.split()} <= {*tokenizer.vocabulary}
    (tmp_path / "own.txt").write_text("one two")
    own, origin = answer_words(replace(run, model=replace(run.model, public_text=str(tmp_path / "own.txt"))), train)
    assert "own.txt" in origin
    assert "two" in own.vocabulary


# ---------------------------------------------------------------- the whole way


@pytest.fixture(scope="module")
def from_scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("scratch") / "run"
    train_run(scenes(run), seed=None)
    return run


def test_the_card_says_what_a_record_is_and_where_the_words_are_from(from_scratch: Path) -> None:
    card = card_of(from_scratch)
    made = make(read_config(from_scratch))
    assert card["epsilon"] == pytest.approx(made.plan.epsilon(), rel=1e-6)
    assert card["record"] == "one picture with all its questions; a draw takes 4 of its questions, clipped together"
    assert card["public"]["num_records"] == 40, "pictures are the records, not questions"
    assert card["public"]["vocabulary"] == "the words of the public questions and answers"
    assert "max question 12" in card["public"]["how a row is fed"]
    assert card["presence"] == 1.0
    assert card["swap"] == 2.0
    assert not card["stamps"]


def test_whole_way(from_scratch: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = from_scratch
    assert main(["evaluate", str(run), "--suite", "vqa", "--limit", "24"]) == 0
    found = json.loads((run / "export" / "metrics.json").read_text())["suites"]
    assert set(found) == {"vqa", "vqa_baselines"}
    assert not [name for suite in found.values() for name, part in suite.items() if "skipped" in str(part)]
    picture = tmp_path / "picture.png"
    Image.fromarray(data.shape_questions(2, image_size=16)[0]["image"]).save(picture)
    capsys.readouterr()
    assert main(["predict", str(run), str(picture), "--question", "name the color.", "--jsonl"]) == 0
    line = json.loads(capsys.readouterr().out)
    assert isinstance(line["caption"], str)
    assert line["error"] is None
    for asked, words in ((["--question", " "], "--question is empty"), (["--num-beams", "3"], "takes no --num-beams")):
        assert main(["predict", str(run), str(picture), *asked]) != 0
        assert words in capsys.readouterr().err
    assert main(["report", str(run), "--open", "no"]) == 0
    page = (run / "export" / "report.html").read_text()
    assert "visual questions" in page
    for _ in range(2):  # the second time over the first
        capsys.readouterr()
        assert main(["export", str(run), "--to", "hf"]) == 0
    out = Path(capsys.readouterr().out.strip())
    assert out == run / "export" / "hf-model"
    assert not (out / "hf-model").exists()
    assert not (out / "metrics.json").exists()
    one, two = (models.load_vlm(folder, max_question=12, max_answer=3) for folder in (run, out))
    assert all(torch.equal(p, q) for p, q in zip(one.model.parameters(), two.model.parameters(), strict=True))
    shutil.rmtree(out)


def test_a_picture_that_cannot_be_fed_is_named(
    from_scratch: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mute = evaluate.Subject(answer=lambda pictures, questions: [None] * len(questions))
    monkeypatch.setattr(evaluate, "answerer", lambda *_, **__: mute)
    Image.new("RGB", (16, 16)).save(tmp_path / "one.png")
    ((path, text, error),) = predict(from_scratch, [tmp_path / "one.png"])
    assert (path.name, text) == ("one.png", None)
    assert error is not None
    assert "cannot be fed" in error


def test_the_export_loads_in_plain_transformers(from_scratch: Path) -> None:
    import transformers

    export = from_scratch / "export"
    plain = transformers.BlipForQuestionAnswering.from_pretrained(export)
    assert not plain.training
    loaded = open_trained(from_scratch).loaded
    rows = [loaded.family.ask(data.shape_questions(4, image_size=16)[n]["image"], "name the color.") for n in (0, 5)]
    batch = {name: torch.stack([row[name] for row in rows]) for name in rows[0]}
    assert torch.equal(
        loaded.model.vision_model(batch["pixel_values"])[0], plain.vision_model(batch["pixel_values"])[0]
    )
    processor = transformers.AutoProcessor.from_pretrained(export)
    assert processor.tokenizer.tokenize("color") == ["color"]


def test_the_same_command_again_charges_nothing_and_other_settings_are_refused(from_scratch: Path) -> None:
    before = card_of(from_scratch)
    train_run(scenes(from_scratch))
    assert card_of(from_scratch)["ledger_head"] == before["ledger_head"]
    run = scenes(from_scratch)
    with pytest.raises(BadInput, match=r"trains another model: asking.max_question: 12 -> 9"):
        train_run(replace(run, asking=replace(run.asking, max_question=9)))  # fewer positions: other shapes
    with pytest.raises(BadInput, match=r"other settings: training.learning_rate"):
        train_run(replace(run, training=replace(run.training, learning_rate=0.5)))


@only_whole
def test_killed_and_resumed_equals_uninterrupted(tmp_path: Path) -> None:
    """Bit for bit, with several questions of each record, and no step is charged twice."""
    runs = [replace(scenes(tmp_path / name), privacy=replace(scenes().privacy, steps=3)) for name in ("whole", "cut")]
    unmeasured = [replace(make(run), held_out=None) for run in (runs[0], *runs[1:], *runs[1:])]
    train_run(runs[0], seed=3, made=unmeasured[0])
    assert killed(lambda: train_run(runs[1], seed=3, made=unmeasured[1], on_progress=die_at(2))) == signal.SIGKILL
    assert not (tmp_path / "cut" / "export" / "card.json").exists()
    train_run(runs[1], seed=3, made=unmeasured[2])
    weights = [(run.out / "export" / "model.safetensors").read_bytes() for run in runs]
    assert weights[0] == weights[1]
    cards = [card_of(run.out) for run in runs]
    assert [card["steps_executed"] for card in cards] == [3, 3]
    assert cards[0]["epsilon"] == cards[1]["epsilon"]
    assert [str(card["attempts"]) for card in cards] == ["1", "1"]


def test_the_course_is_of_public_questions_alone(vqa2: Path, from_scratch: Path) -> None:
    lines = [json.loads(line) for line in (from_scratch / "export" / "course.jsonl").read_text().splitlines()]
    assert lines[-1]["metric"] == "answer loss on held-out questions"
    run = small(scratch(run_of(TrainCommand(recipe="dp-vqa", data=f"vqa2:{vqa2}", size="micro"))))
    run = replace(run, model=replace(run.model, public_text=str(vqa2 / "sentences.txt")))
    assert course_of(make(run), vqa2) is None
    assert course_of(make(replace(run, data=replace(run.data, public=True))), vqa2) is not None


def test_the_twin_carries_no_card(tmp_path: Path) -> None:
    train_twin(replace(scenes(tmp_path), private=False))
    assert (tmp_path / "export" / "NOT_PRIVATE.md").is_file()
    assert not (tmp_path / "export" / "card.json").exists()
    assert open_trained(tmp_path).kind == "vlm"


@only_whole
def test_groups_train_too(tmp_path: Path) -> None:
    run = small(run_of(flags(unit="group", group_size=3.0, views=2, out=tmp_path)))
    train_run(run, made=replace(make(run), held_out=None))
    card = card_of(run.out)
    assert card["unit"].startswith("group")
    assert (card["presence"], card["swap"]) == (2.0, 2.0)


def test_captions_are_answers_to_one_public_question(tmp_path: Path) -> None:
    run = small(scratch(replace(dp_vqa("shapes:40", tmp_path), model=scenes().model)))
    run = replace(run, asking=replace(run.asking, max_answer=12, question="what is drawn?"))
    made = make(run)
    assert made.record == "one picture with its text"
    assert made.settings["question"] == "what is drawn?"
    asked = made.rows[0]["input_ids"]
    assert torch.equal(asked, made.rows[1]["input_ids"])
    assert (asked != made.rows.encode(data.shapes(1)[0]["image"], "where is it?", "a")["input_ids"]).any()
    train_run(run, made=replace(made, held_out=None))
    found = evaluate_run(tmp_path, limit=12)["suites"]
    assert (found["vqa"]["free"]["n"], found["vqa"]["num_unfed"]) == (12, 0)
    assert found["vqa"]["candidates"]
    assert found["vqa_baselines"]["num_train"] == 12
    assert found["vqa_baselines"]["question_only"]["accuracy"] == found["vqa_baselines"]["majority"]["accuracy"]


def test_deep_private_pictures_are_answered(tmp_path: Path) -> None:
    """16 bits a pixel, declared by a window: training rounds them, so does evaluation."""
    pixels = np.random.default_rng(0).integers(0, 4096, (12, 16, 16)).astype(np.uint16)
    lines = ["file,question,answer"]
    for number, one in enumerate(pixels):
        Image.fromarray(one).save(tmp_path / f"{number}.png")
        lines += [f"{number}.png,what color is it?,red", f"{number}.png,is it red?,yes"]
    (tmp_path / "t.csv").write_text("\n".join(lines))
    (tmp_path / "sentences.txt").write_text(PUBLIC_TEXT)
    settings = {"captions": str(tmp_path / "t.csv"), "window": (0.0, 4095.0), "holdout": 0.5, "image_size": 16}
    run = small(
        run_of(TrainCommand(recipe="dp-vqa", data=str(tmp_path), size="micro", out=tmp_path / "run", **settings))
    )
    run = replace(run, model=replace(run.model, public_text=str(tmp_path / "sentences.txt")))
    made = make(run)
    assert made.sets.test is not None
    picture = made.sets.test[0]["image"]
    assert picture.dtype == np.float32
    train_run(run, made=made)
    subject = open_trained(run.out).subject(made.sets)
    assert subject.answer is not None
    assert subject.answer([picture], ["is it red?"]) == subject.answer([data.eight_bit_rgb(picture)], ["is it red?"])
    assert evaluate_run(run.out)["suites"]["vqa"]["num_unfed"] == 0
