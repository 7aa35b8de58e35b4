"""One folder is one run, and what it hands on is checked: the commands that write into or read a run's folder."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from sfumato.base import BadInput
from sfumato.base.checksums import DamagedFile
from sfumato.cli import main
from sfumato.recipes import Run, dp_cap
from sfumato.recipes.config import read_config, write_config
from sfumato.recipes.demo import demo
from sfumato.recipes.execute import train_run, train_twin
from sfumato.recipes.exported import check_export
from sfumato.recipes.make import make

pytestmark = pytest.mark.filterwarnings("ignore")  # of the libraries at import

FLAGS = ["--data", "shapes:600", "--noise-multiplier", "1", "--expected-batch-size", "24"]


def small(out: Path) -> Run:
    run = dp_cap("shapes:600", out)
    privacy = replace(run.privacy, epsilon=None, noise_multiplier=1.0, expected_batch_size=24, steps=3)
    return replace(run, privacy=privacy, training=replace(run.training, micro_batch_size=16, warmup_steps=1))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("trained") / "run"
    train_run(small(out))
    return out


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    shutil.copytree(trained, tmp_path / "run")
    return tmp_path / "run"


def listing(out: Path) -> dict[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}


def refused(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> str:
    capsys.readouterr()
    assert main(arguments) == 2
    (shown,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("sfumato: ")]
    return shown


def test_a_baseline_never_stands_where_a_claim_does(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = listing(run)
    command = ["train", "dp-cap", *FLAGS[:2], "--steps", "3", "--non-private", "--out", str(run)]
    assert "one folder is one run" in refused(capsys, command)
    (run / "run.json").unlink()
    assert "one folder is one run" in refused(capsys, command)
    assert listing(run) == {name: raw for name, raw in before.items() if name != "run.json"}


@pytest.mark.parametrize("left", ["run.json", "export/NOT_PRIVATE.md"])
def test_a_claim_never_stands_where_a_baseline_does(tmp_path: Path, left: str) -> None:
    out = tmp_path / "twin"
    twin = replace(small(out), private=False)
    write_config(twin)
    (out / "export").mkdir()
    (out / "export/NOT_PRIVATE.md").write_text("x")
    for name in {"run.json", "export/NOT_PRIVATE.md"} - {left}:
        (out / name).unlink()
    before = listing(out)
    with pytest.raises(BadInput, match="privacy"):
        train_run(small(out))
    assert listing(out) == before


def test_a_baseline_begins_again_only_as_it_was(tmp_path: Path) -> None:
    twin = replace(small(tmp_path / "twin"), private=False)
    train_twin(twin)
    first = (tmp_path / "twin/export/model.safetensors").read_bytes()
    train_twin(twin)
    assert (tmp_path / "twin/export/model.safetensors").read_bytes() == first
    check_export(tmp_path / "twin")
    with pytest.raises(BadInput, match=r"other settings: privacy\.steps: 3 -> 4"):
        train_twin(replace(twin, privacy=replace(twin.privacy, steps=4)))


@pytest.mark.parametrize("gone", ["private", "private/ledger.jsonl"])
def test_a_second_model_beside_the_old_card_is_refused(run: Path, gone: str, capsys) -> None:
    path = run / gone
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    before = listing(run)
    command = ["train", "dp-cap", *FLAGS, "--steps", "3", "--out", str(run)]
    text = refused(capsys, command)
    assert "a privacy card" in text
    assert "start over" in text
    assert listing(run) == before


@pytest.mark.parametrize(
    "command",
    [
        ["finetune", "{run}", *FLAGS, "--out", "{run}"],
        ["finetune", "{run}", "--data", "shapes:600", "--out", "{run}", "--non-private"],
        ["train", "dp-gcl", *FLAGS, "--steps", "3", "--out", "{run}"],
        ["train", "dp-cap", *FLAGS, "--steps", "4", "--out", "{run}"],
        ["train", "dp-cap", *FLAGS, "--steps", "3", "--learning-rate", "1", "--out", "{run}", "--new-attempt"],
        ["simulate", "--out", "{run}"],
        ["export", "{run}", "--out", "{run}"],
        ["export", "{run}", "--out", "{run}/export"],
        ["export", "{run}", "--out", "{run}/private/x"],
        ["export", "{run}/export", "--out", "{run}/export"],
        ["export", "{other}", "--out", "{run}/export/hf-model"],
        ["export", "{other}", "--out", "{run}/new"],
        ["demo", "--out", "{run}"],
    ],
)
def test_no_command_writes_over_a_run(run: Path, tmp_path: Path, command: list[str], capsys) -> None:
    shutil.copytree(run, tmp_path / "other")
    before = listing(run)
    places = {"run": run, "other": tmp_path / "other"}
    text = refused(capsys, [part.format(**places) for part in command])
    assert "folder" in text or "--new-attempt" in text
    after = listing(run)
    changed = {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
    assert changed <= {"private/ledger.lock"}, "but for who wrote last"


WRITERS = {
    "train": ["train", "dp-cap", *FLAGS, "--steps", "3", "--out", "{run}"],
    "twin": ["train", "dp-cap", *FLAGS[:2], "--steps", "3", "--non-private", "--out", "{run}"],
    "evaluate": ["evaluate", "{run}", "--suite", "caption", "--limit", "2"],
    "report": ["report", "{run}"],
    "export": ["export", "{run}"],
}


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("link", ["export", "private"])
@pytest.mark.parametrize("outside", [True, False])
def test_no_command_writes_behind_a_link(
    name: str, link: str, outside: bool, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Seed, ledger and log would lie in what is called "to share", or a page in a folder of the system."""
    (other,) = {"export", "private"} - {link}
    place = tmp_path / "elsewhere" if outside else run / other
    if outside:
        (run / link).rename(place)
    else:
        shutil.copytree(run / link, place, dirs_exist_ok=True)
        shutil.rmtree(run / link)
    (run / link).symlink_to(place)
    before = listing(tmp_path)
    assert f"{link} is a link to {place}" in refused(capsys, [part.format(run=run) for part in WRITERS[name]])
    assert listing(tmp_path) == before


def test_the_demonstration_replaces_its_own_run_only(run: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="not the demonstration's"):
        demo(run)
    assert (run / "private/ledger.jsonl").is_file()


def test_a_models_own_export_stays_right(run: Path, capsys) -> None:
    for _ in range(2):
        assert main(["export", str(run), "--to", "hf"]) == 0
        check_export(run)
    weights = run / "export/hf-model/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    with pytest.raises(DamagedFile, match="hf-model"):
        check_export(run)


def flip(path: Path, place: int = -1) -> None:
    raw = bytearray(path.read_bytes())
    raw[place] ^= 1
    path.write_bytes(raw)


@pytest.mark.parametrize("name", ["model.safetensors", "preprocessor_config.json"])
@pytest.mark.parametrize("command", ["evaluate", "predict", "report", "export", "finetune", "init"])
def test_a_flipped_bit_is_found_by_whatever_reads(run: Path, tmp_path: Path, name: str, command: str, capsys) -> None:
    path = run / "export" / name
    flip(path, len(path.read_bytes()) // 2)
    picture = tmp_path / "picture.png"
    picture.write_bytes(b"")
    commands = {
        "evaluate": ["evaluate", str(run), "--suite", "caption", "--limit", "2"],
        "predict": ["predict", str(run), str(picture)],
        "report": ["report", str(run)],
        "export": ["export", str(run), "--out", str(tmp_path / "handed-on")],
        "finetune": ["finetune", str(run), "--data", "shapes:600", "--out", str(tmp_path / "classes")],
        "init": ["train", "dp-cap", "--data", "shapes:600", "--init", str(run), "--out", str(tmp_path / "second")],
    }
    text = refused(capsys, commands[command])
    assert f"{name} is not the file that was written" in text


def test_the_card_names_the_models_files(run: Path) -> None:
    files = json.loads((run / "export/card.json").read_text())["files"]
    listed = json.loads((run / "export/checksums.json").read_text())
    assert {name: entry["sha256"] for name, entry in listed["model"].items()} == files
    assert {"model.safetensors", "config.json"} <= files.keys()
    shown = {path.relative_to(run / "export").as_posix() for path in (run / "export").rglob("*") if path.is_file()}
    assert listed["model"].keys() | listed["files"].keys() == shown - {"checksums.json"}, "every file of export/"


def test_figures_and_report_are_listed_too(run: Path) -> None:
    assert main(["evaluate", str(run), "--suite", "caption", "--limit", "20"]) == 0
    assert main(["report", str(run)]) == 0
    check_export(run)
    listed = json.loads((run / "export/checksums.json").read_text())["files"]
    assert {"metrics.json", "samples.json", "attention.json", "report.html", "card.json"} <= listed.keys()
    flip(run / "export/metrics.json", 30)
    with pytest.raises(DamagedFile, match="metrics"):
        check_export(run)


def test_a_run_of_an_earlier_version_is_read_and_said_to_be_unchecked(run: Path, caplog) -> None:
    (run / "export/checksums.json").unlink()
    card = json.loads((run / "export/card.json").read_text())
    del card["files"]
    (run / "export/card.json").write_text(json.dumps(card))
    assert main(["report", str(run)]) == 0
    check_export(run)
    assert "unchecked" in caplog.text


def edited(run: Path, **facts: object) -> None:
    card = json.loads((run / "export/card.json").read_text())
    (run / "export/card.json").write_text(json.dumps({**card, **facts}))
    (run / "export/checksums.json").unlink()


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"epsilon": 0.001}, "epsilon 0.001 at delta"),
        ({"delta": 1e-12}, "where its steps come to"),
        ({"steps_executed": 2}, "2 steps were executed, where 3 are charged"),
        ({"max_true_positive_rate": 0.011}, "recognised with a chance of at most 0.011"),
    ],
)
def test_a_card_that_claims_less_than_the_ledger_is_refused(run: Path, facts: dict, words: str, caplog, capsys) -> None:
    weights = (run / "export/model.safetensors").read_bytes()
    edited(run, **facts)
    text = refused(capsys, ["report", str(run)])
    assert "claims less than the ledger of its run" in text
    assert words in text
    assert "has no checksums.json" in caplog.text, "nothing is checked, and that is said"
    assert not (run / "export/report.html").exists()
    train_run(read_config(run))
    assert main(["report", str(run)]) == 0
    assert (run / "export/model.safetensors").read_bytes() == weights


def test_a_card_that_claims_more_and_one_without_its_ledger_are_shown(run: Path) -> None:
    edited(run, epsilon=900.0)
    assert main(["report", str(run)]) == 0
    edited_copy = run.parent / "shared"
    shutil.copytree(run / "export", edited_copy / "export")
    assert main(["report", str(edited_copy)]) == 0


def test_a_report_beside_a_changed_ledger_is_refused(run: Path, capsys) -> None:
    path = run / "private/ledger.jsonl"
    path.write_text(path.read_text().replace('"step": 1', '"step": 9'))
    assert "changed, or a line before it is missing" in refused(capsys, ["report", str(run)])


@pytest.mark.parametrize("command", ["report", "predict", "export"])
def test_a_listed_file_that_is_missing_is_named(run: Path, command: str, tmp_path: Path, caplog) -> None:
    for name in ("card.json", "card.md", "progress.jsonl"):
        (run / "export" / name).unlink()
    flags = {"predict": ["examples"], "export": ["--out", str(tmp_path / "handed-on")]}.get(command, [])
    main([command, str(run), *flags])
    assert "checksums.json lists what is missing: card.json, card.md, progress.jsonl." in caplog.text


def test_a_damaged_export_is_written_again_by_the_same_command(run: Path) -> None:
    weights = (run / "export/model.safetensors").read_bytes()
    flip(run / "export/model.safetensors")
    train_run(read_config(run))
    assert (run / "export/model.safetensors").read_bytes() == weights
    check_export(run)


@pytest.mark.every(2)
@pytest.mark.parametrize(("before", "after"), [(0, 2), (1, 0)])
def test_another_number_of_workers_resumes(trained: Path, tmp_path: Path, before: int, after: int) -> None:
    def stop(progress: object) -> None:
        raise KeyboardInterrupt

    def with_workers(count: int) -> Run:
        run = small(tmp_path / "run")
        return replace(run, training=replace(run.training, num_workers=count))

    with pytest.raises(KeyboardInterrupt):
        train_run(with_workers(before), on_progress=stop, seed=3)
    train_run(with_workers(after), seed=3)
    card = json.loads((tmp_path / "run/export/card.json").read_text())
    assert (card["attempts"], card["steps_executed"]) == (1, 3)
    whole = small(tmp_path / "whole")
    train_run(whole, seed=3)
    exports = [tmp_path / name / "export/model.safetensors" for name in ("run", "whole")]
    assert exports[0].read_bytes() == exports[1].read_bytes()


def test_other_settings_before_the_first_step_still_end_in_a_card(tmp_path: Path) -> None:
    run = small(tmp_path / "run")
    write_config(replace(run, training=replace(run.training, learning_rate=0.5)))  # killed before its first step
    assert train_run(run) is not None
    assert (run.out / "export/card.json").is_file()
    assert read_config(run.out).training.learning_rate == run.training.learning_rate


def test_an_export_that_cannot_be_written_leaves_the_former_one(run: Path, monkeypatch) -> None:
    from safetensors import SafetensorError

    before = listing(run / "export")
    made = make(read_config(run))

    def full(folder: Path) -> None:
        (folder / "model.safetensors").write_bytes(b"half")
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    with pytest.raises(BadInput, match=r"export could not be written .*No space left.*same command"):
        train_run(read_config(run), made=replace(made, export=full))
    assert listing(run / "export") == before
