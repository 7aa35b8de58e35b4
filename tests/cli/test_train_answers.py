"""What a user of dp-vqa and dp-vlm can get wrong: one sentence, exit status 2, nothing written, nothing spent."""

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import transformers
from tests.data.visual import build_vqa2
from tests.recipes.asked import SECRET_WORD, TINY, build_table, checkpoint, of_table, words

from sfumato.cli import main


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kept")
    build_table(folder / "table", num_owners=4)
    build_vqa2(folder / "vqa2", num_images=4)
    build_vqa2(folder / "vqa2", split="val", num_images=2, first_image=50)
    checkpoint("blip", folder)
    return folder


@pytest.fixture
def there(kept: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(kept, tmp_path / "there"))


def vlm(there: Path, *more: str) -> list[str]:
    return ["dp-vlm", "--model", str(there / "blip"), *words({**of_table(there / "table"), **TINY}), *more]


def vqa(there: Path, *more: str) -> list[str]:
    told = {**of_table(there / "table"), **TINY, "--size": "micro", "--public-text": there / "table" / "sentences.txt"}
    return ["dp-vqa", *words(told), *more]


def official(there: Path, *more: str) -> list[str]:
    return ["dp-vlm", "--model", str(there / "blip"), "--data", f"vqa2:{there / 'vqa2'}", *words(TINY), *more]


def refused(command: list[str], said: tuple[str, ...], out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path for path in out.rglob("*") if path.is_file()}
    capsys.readouterr()
    assert main(["train", *command, "--out", str(out / "run")]) == 2
    error = capsys.readouterr().err
    for text in said:
        assert text in error
    assert error.count("\n") == 1, f"one sentence, not:\n{error}"
    assert "Traceback" not in error
    for private in (SECRET_WORD, "what color is it?", "owner 3", "What color"):
        assert private not in error
    assert {path for path in out.rglob("*") if path.is_file()} == before
    assert not (out / "run").exists()


# ---------------------------------------------------------------- models

MODELS: dict[str, tuple[Callable[[Path], object], tuple[str, ...]]] = {
    "wrong folder": (lambda there: shutil.rmtree(there / "blip"), ("no checkpoint folder", "blip")),
    "empty folder": (
        lambda there: [path.unlink() for path in (there / "blip").iterdir()],
        ("config.json is missing",),
    ),
    "no vision-language model": (
        lambda there: transformers.BertConfig().save_pretrained(there / "blip"),
        ("'bert' has no family", "LlavaForConditionalGeneration"),
    ),
    "no processor": (
        lambda there: [path.unlink() for path in (there / "blip").glob("*processor_config.json")],
        ("no processor", "preprocessor_config.json is missing"),
    ),
    "no tokenizer": (
        lambda there: [path.unlink() for path in (there / "blip").glob("tokenizer*")],
        ("no tokenizer", "tokenizer.json is missing"),
    ),
    "no weights": (lambda there: (there / "blip" / "model.safetensors").unlink(), ("model.safetensors is missing",)),
    "broken configuration": (lambda there: (there / "blip" / "config.json").write_text("{"), ("not valid JSON",)),
}


@pytest.mark.parametrize("recipe", ["dp-vlm", "dp-vqa"])
@pytest.mark.parametrize("name", MODELS)
def test_a_model_that_cannot_be_read(
    there: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, recipe: str
) -> None:
    spoil, said = MODELS[name]
    spoil(there)
    refused([recipe, *vlm(there)[1:]], said, tmp_path, capsys)


# ---------------------------------------------------------------- data


def rewrite(there: Path, change: Callable[[list[list[str]]], None]) -> None:
    path = there / "table" / "questions.csv"
    with path.open(newline="") as file:
        rows = list(csv.reader(file))
    change(rows)
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)


def blank(column: int) -> Callable[[Path], None]:
    return lambda there: rewrite(there, lambda rows: rows[3].__setitem__(column, ""))


def rename(column: int) -> Callable[[Path], None]:
    return lambda there: rewrite(there, lambda rows: rows[0].__setitem__(column, "other"))


def edit(what: str, change: Callable[[list], object]) -> Callable[[Path], None]:
    def spoil(there: Path) -> None:
        (path,) = (there / "vqa2").glob(f"*train2014_{what}.json")
        whole = json.loads(path.read_text())
        change(whole[what])
        path.write_text(json.dumps(whole))

    return spoil


TABLES: dict[str, tuple[Callable[[Path], object], tuple[str, ...]]] = {
    "answers missing": (blank(2), ("row", "3", "answer")),
    "question missing": (blank(1), ("row", "3", "question")),
    "question without image": (blank(0), ("row", "3")),
    "owner missing": (blank(3), ("row", "3", "owner")),
    "image absent": (lambda there: (there / "table" / "pictures" / "o00-0.png").unlink(), ("2 rows", "(1, 2)")),
    "owner column absent": (rename(3), ("no column 'person'", "--owner-column")),
    "question column absent": (rename(1), ("no column 'question'", "--question-column")),
    "answer column absent": (rename(2), ("no column 'answer'", "--answer-column")),
    "image column absent": (rename(0), ("no column 'file'", "--image-column")),
    "no table": (lambda there: (there / "table" / "questions.csv").unlink(), ("questions.csv does not exist",)),
    "no pictures": (lambda there: shutil.rmtree(there / "table" / "pictures"), ("pictures",)),
}


@pytest.mark.parametrize("command", [vlm, vqa])
@pytest.mark.parametrize("name", TABLES)
def test_a_table_that_is_wrong(
    there: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, command: Callable[..., list[str]]
) -> None:
    spoil, said = TABLES[name]
    spoil(there)
    refused(command(there), said, tmp_path, capsys)


OFFICIAL: dict[str, tuple[Callable[[Path], object], tuple[str, ...]]] = {
    "answers missing": (edit("annotations", lambda told: told.pop(1)), ("answers missing", "annotations")),
    "no answers at all": (edit("annotations", lambda told: told[1].pop("answers")), ("answers missing",)),
    "question without image": (edit("questions", lambda asked: asked[2].pop("image_id")), ("image_id", "3")),
    "empty question": (edit("questions", lambda asked: asked[2].update(question="")), ("question", "3")),
    "image absent": (
        lambda there: next((there / "vqa2" / "train2014").iterdir()).unlink(),
        ("2 rows", "looked for COCO_train2014_<image_id"),
    ),
    "no questions file": (
        lambda there: next((there / "vqa2").glob("*train2014_questions.json")).unlink(),
        ("no file named *train*questions*.json",),
    ),
    "no folder": (lambda there: shutil.rmtree(there / "vqa2"), ("vqa2 does not exist",)),
}


@pytest.mark.parametrize("name", OFFICIAL)
def test_official_files_that_are_wrong(
    there: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    spoil, said = OFFICIAL[name]
    spoil(there)
    refused(official(there), said, tmp_path, capsys)


# ---------------------------------------------------------------- flags

SHAPES = ("--data", "shape-questions:8")
FLAGS: dict[str, tuple[Callable[[Path], list[str]], tuple[str, ...]]] = {
    "model of a captioner": (
        lambda there: ["dp-cap", "--data", "shapes:20", "--model", str(there / "blip")],
        ("dp-cap", "--model"),
    ),
    "rank without lora": (lambda there: vqa(there, "--rank", "4"), ("--rank", "--train lora")),
    "the usual rank without lora": (lambda there: vlm(there, "--rank", "8", "--train", "heads"), ("--rank", "lora")),
    "rank of two towers": (lambda there: ["dp-gcl", "--data", "shapes:20", "--rank", "4"], ("--rank", "lora")),
    "lora without a checkpoint": (lambda there: vqa(there, "--train", "lora"), ("name one with --model",)),
    "groups without a unit": (lambda there: vlm(there, "--num-groups", "4"), ("--num-groups", "--unit group")),
    "group size of a batch": (lambda there: vlm(there, "--unit", "batch", "--group-size", "4"), ("--unit group",)),
    "unit of a captioner": (lambda there: ["dp-cap", "--data", "shapes:20", "--unit", "batch"], ("dp-cap", "--unit")),
    "questions for a captioner": (lambda there: ["dp-cap", *SHAPES], ("questions and answers", "dp-vqa")),
    "questions for two towers": (lambda there: ["dp-clip", *SHAPES], ("questions and answers", "dp-vqa")),
    "a table of questions for a captioner": (
        lambda there: ["dp-cap", *words(of_table(there / "table"))],
        ("questions and answers", "dp-vlm"),
    ),
    "no model": (lambda there: ["dp-vlm", *SHAPES], ("dp-vlm needs --model",)),
    "model and size": (lambda there: [*vqa(there), "--model", str(there / "blip")], ("--model", "--size")),
    "no size of private questions": (
        lambda there: ["dp-vqa", *words({**of_table(there / "table"), **TINY})],
        ("--model", "--size"),
    ),
    "no public words": (
        lambda there: ["dp-vqa", *words({**of_table(there / "table"), **TINY, "--size": "micro"})],
        ("questions and answers are private", "--public-text"),
    ),
    "words beside a checkpoint": (
        lambda there: ["dp-vqa", "--model", str(there / "blip"), *SHAPES, "--vocabulary", "x"],
        ("leave out --vocabulary",),
    ),
    "a question for questions": (lambda there: vlm(there, "--question", "what is it?"), ("leave out --question",)),
    "a prompt without its place": (lambda there: vlm(there, "--prompt", "Answer:"), ("{question}",)),
    "learned tokens": (lambda there: vlm(there, "--train", "prefix"), ("lora or dora", "prefix")),
    "nothing known": (lambda there: vlm(there, "--train", "everything"), ("everything",)),
    "more questions than a model reads": (lambda there: vlm(there, "--max-question", "90"), ("text positions",)),
    "another size than the model's": (lambda there: vlm(there, "--image-size", "64"), ("pixels a side",)),
    "no such target": (lambda there: vlm(there, "--targets", "nothing"), ("no linear layer is named nothing",)),
    "temperature": (lambda there: vlm(there, "--temperature", "0.1"), ("--temperature",)),
    "holdout of a set with a test split": (lambda there: official(there, "--captions", "x.csv"), ("captions",)),
}


@pytest.mark.parametrize("name", FLAGS)
def test_flags_that_do_not_go_together(
    there: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    command, said = FLAGS[name]
    refused(command(there), said, tmp_path, capsys)
