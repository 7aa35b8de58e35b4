"""`sfumato doctor`: its text, its JSON, and its exit status."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image
from tests.models.vlms import FOLDERS

from sfumato import cli
from sfumato.plan import Plan

FEW = ["--image-size", "16", "--channels", "1", "--no-measure"]


def test_trainable_model_is_told_in_text_and_gives_0(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Plan, "calibrated", lambda self, **_: replace(self, noise_multiplier=1.5))
    assert cli.main(["doctor", "pico", *FEW, "--records", "5000", "--expected-batch-size", "64", "--steps", "5"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "captioner of size pico" in shown
    assert "Can be trained: yes" in shown
    for word in ("linear", "conv2d", "embedding", "layer_norm", "Signal of the first step", "noise multiplier 1.5"):
        assert word in shown


def test_json_has_the_figures(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["doctor", "pico", *FEW, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["trainable"] is True
    assert found["parameters"]["trainable"] == sum(row["parameters"] for row in found["rules"])
    assert found["signal"] is None


def test_untrainable_model_gives_1_and_one_line_without_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["doctor", "timm:resnet10t", "--image-size", "32", "--no-measure"]) == 1
    shown = capsys.readouterr()
    assert "Can be trained: no" in shown.out
    assert "Instead: frozen statistics" in shown.out
    assert "held in evaluation mode (tried)" in " ".join(shown.out.split())
    assert "Traceback" not in shown.err + shown.out
    (line,) = [line for line in shown.err.splitlines() if line.startswith("sfumato: ")]
    assert "BatchNorm" in line


@pytest.mark.parametrize("content", [None, "{", '{"model_type": "nothing"}', '{"model_type": "vit"}'])
def test_broken_folders_are_one_sentence(
    content: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    assert cli.main(["doctor", str(tmp_path), "--no-measure"]) == 1
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "unexpected" not in err


def test_private_pictures_are_wrong_use(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Plan, "calibrated", lambda self, **_: replace(self, noise_multiplier=1.5))
    assert cli.main(["doctor", "pico", *FEW, "--records", "5000", "--data", str(tmp_path)]) == 2
    assert "reads no private rows" in capsys.readouterr().err


@pytest.mark.parametrize(
    "flags",
    [
        ["--data", "shapes"],
        ["--public"],
        ["--captions", "a.csv"],
        ["--epsilon", "3"],
        ["--delta", "1e-5"],
        ["--steps", "5"],
        ["--clip-norm", "2"],
        ["--expected-batch-size", "64"],
        ["--micro-batch-size", "4"],
        ["--check"],
        ["--records", "0"],
        ["--memory", "inf"],
        ["--image-size", "0"],
    ],
)
def test_flags_that_nothing_would_read_are_refused_by_name(
    flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["doctor", "pico", "--no-measure", *flags]) == 2
    assert flags[0].removeprefix("--") in capsys.readouterr().err


def test_table_of_public_pictures_is_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Plan, "calibrated", lambda self, **_: replace(self, noise_multiplier=1.5))
    for number in range(40):
        Image.new("L", (16, 16), number).save(tmp_path / f"{number}.png")
    table = tmp_path / "table.csv"
    table.write_text("picture,said\n" + "".join(f"{number}.png,a shade\n" for number in range(40)))
    columns = ["--captions", str(table), "--image-column", "picture", "--caption-column", "said"]
    few = ["--records", "5000", "--expected-batch-size", "64", "--steps", "5", "--data", str(tmp_path), "--public"]
    assert cli.main(["doctor", "pico", *FEW, *few, *columns]) == 0
    assert "words made up" in " ".join(capsys.readouterr().out.split())


@pytest.fixture
def llava(tmp_path: Path) -> Path:
    FOLDERS["llava"](tmp_path / "llava")
    return tmp_path / "llava"


def test_llava_reads_well(llava: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Plan, "calibrated", lambda self, **_: replace(self, noise_multiplier=50.0))
    adapter = ["--train", "lora", "--rank", "2", "--targets", "q_proj", "v_proj", "--frozen-dtype", "bfloat16"]
    plan = ["--records", "5000", "--expected-batch-size", "64", "--steps", "5"]
    lengths = ["--max-question", "6", "--max-answer", "4"]
    capsys.readouterr()
    assert cli.main(["doctor", str(llava), "--no-measure", *adapter, *plan, *lengths]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    for words in (
        "LlavaForConditionalGeneration of",
        "LoRA of rank 2 on 6 linear layers",
        "max question 6, max answer 4",
        "(stored as bfloat16)",
        "clipping each example by itself",
        "Hopeless",
        "--train lora --rank 1",
    ):
        assert words in shown
    assert cli.main(["doctor", str(llava), "--no-measure", *adapter, *lengths, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["parameters"]["frozen_types"] == ["bfloat16"]
    assert found["asked"]["adapter"]["targets"] == ["q_proj", "v_proj"]


@pytest.mark.parametrize("lost", ["processor_config.json", "tokenizer.json", "config.json"])
def test_checkpoint_that_lacks_a_part_is_one_sentence(
    lost: str, llava: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for file in llava.glob(f"*{lost}" if lost != "config.json" else lost):
        file.unlink()
    capsys.readouterr()
    assert cli.main(["doctor", str(llava), "--no-measure"]) == 1
    err = capsys.readouterr().err
    assert f"{lost} is missing" in err
    assert err.count("\n") == 1


def test_wrong_folder_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["doctor", "no/such/folder", "--no-measure"]) == 1
    assert "'no/such/folder' is no folder" in capsys.readouterr().err
