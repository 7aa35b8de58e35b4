"""One folder is one run: what a folder shows, its ledger must know, before anything is written into it."""

import json
import os
import shutil
from pathlib import Path

import pytest
from tests.train.case import STEPS, Run, make_plan

import sfumato as sf
from sfumato.base import BadInput
from sfumato.base.ledger import BrokenLedger, Ledger
from sfumato.report import build, card
from sfumato.train import Trainer, card_facts, record_look

WORDS = {
    "record": "one row",
    "owner_column": None,
    "public": {"vocabulary": "none", "normalisation": "none", "initialisation": "random"},
    "left_out": {"tuning": "none", "evaluation": "none", "who_sees_what": "export/ is public"},
}


def finished(out: Path) -> Path:
    """A run with everything: progress, checkpoints, card, weights."""
    with Run(out, options={}) as run:
        trainer = {"loss_fn": run.loss, "dataset": run.dataset, "plan": run.plan, "out": out}
    Trainer(
        model=run.model, optimizer=run.optimizer, micro_batch_size=4, checkpoint_every=3, report_every=2, **trainer
    ).fit()
    card.write(build(card_facts(out, **WORDS)), out / "export")
    (out / "export" / "model.safetensors").write_bytes(b"weights")
    return out


def listing(out: Path) -> dict[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}


KEPT = {
    "all of it": (),
    "the card": ("progress.jsonl", "model.safetensors"),
    "the weights": ("progress.jsonl", "card.json", "card.md"),
    "the progress": ("model.safetensors", "card.json", "card.md"),
}


@pytest.mark.parametrize("gone", KEPT.values(), ids=KEPT)
@pytest.mark.parametrize("private", ["removed", "empty", "without ledger"])
def test_a_second_model_beside_an_old_claim_is_refused(tmp_path, gone, private):
    out = finished(tmp_path / "run")
    for name in gone:
        (out / "export" / name).unlink()
    if private == "without ledger":
        (out / "private/ledger.jsonl").unlink()
    else:
        shutil.rmtree(out / "private")
        if private == "empty":
            (out / "private").mkdir()
    before = listing(out)
    for _ in range(2):
        with pytest.raises(BadInput, match=r"ledger .*is missing.*start over in another folder") as error:
            Run(out, options={})
    assert "epsilons add up" in str(error.value)
    assert listing(out) == before, "nothing was written"


@pytest.mark.parametrize("left", ["private/checkpoints", "private/log.jsonl"])
def test_what_is_left_in_private_tells_of_a_lost_ledger(tmp_path, left):
    out = finished(tmp_path / "run")
    shutil.rmtree(out / "export")
    for path in list((out / "private").iterdir()):
        if path != out / left:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(BadInput, match=r"ledger .*is missing"):
        Run(out, options={})


def test_a_ledger_that_lost_its_end_with_its_count_is_refused(tmp_path):
    out = finished(tmp_path / "run")
    shutil.rmtree(out / "private/checkpoints")
    (out / "private/ledger.lock").unlink()
    lines = (out / "private/ledger.jsonl").read_bytes().splitlines(keepends=True)
    (out / "private/ledger.jsonl").write_bytes(b"".join(lines[:5]))
    with pytest.raises(BadInput, match="does not know of it"):
        Run(out, options={})


def test_private_of_another_run_is_not_this_ones(tmp_path):
    one, two = finished(tmp_path / "one"), finished(tmp_path / "two")
    shutil.rmtree(one / "private")
    shutil.copytree(two / "private", one / "private")
    with pytest.raises(BadInput, match=r"privacy card .*does not know of it"):
        Run(one, options={})


def test_an_export_copied_elsewhere_and_a_run_that_was_moved_are_fine(tmp_path):
    out = finished(tmp_path / "run")
    shutil.copytree(out / "export", tmp_path / "shared")
    os.rename(out, tmp_path / "moved")
    shutil.rmtree(tmp_path / "moved/export")
    with Run(tmp_path / "moved", options={}) as run:
        run.private.load(run.optimizer)
        assert run.private.step == STEPS


def test_removed_checkpoints_cost_nothing(tmp_path):
    out = finished(tmp_path / "run")
    epsilon = card_facts(out, **WORDS)["epsilon"]
    shutil.rmtree(out / "private/checkpoints")
    with Run(out, options={}) as run:
        run.private.load(run.optimizer)
        assert run.private.step == 0
    finished(out)
    assert card_facts(out, **WORDS)["epsilon"] == epsilon


def test_an_unreadable_card_beside_a_whole_ledger_stops_nothing(tmp_path):
    out = finished(tmp_path / "run")
    (out / "export/card.json").write_text('{"schema": 1, "led')
    Run(out, options={}).private.close()


def test_a_look_is_not_written_where_the_ledger_is_missing(tmp_path):
    out = finished(tmp_path / "run")
    shutil.rmtree(out / "private")
    with pytest.raises(BadInput, match="is missing"):
        record_look(out, "tuning run")
    assert not (out / "private").exists()


def test_a_private_run_where_a_baseline_stands_is_refused(tmp_path):
    (tmp_path / "export").mkdir()
    (tmp_path / "export/NOT_PRIVATE.md").write_text("not private")
    with pytest.raises(BadInput, match="without privacy"):
        Run(tmp_path, options={})
    assert not (tmp_path / "private").exists()


@pytest.mark.parametrize("held", ["private/ledger.jsonl", "private/seed", "export/card.json", "export/progress.jsonl"])
def test_a_baseline_where_a_private_run_stands_is_refused(tmp_path, held):
    out = finished(tmp_path / "run")
    kept = (out / held).read_bytes()
    for name in ("private", "export"):
        shutil.rmtree(out / name)
    (out / held).parent.mkdir()
    (out / held).write_bytes(kept)
    with pytest.raises(BadInput, match=f"{held}.*one folder is one run"):
        sf.train.check_folder(out, private=False)


def test_a_torn_progress_does_not_stop_a_run(tmp_path):
    out = finished(tmp_path / "run")
    path = out / "export/progress.jsonl"
    for end in (b'{"step": 8, "eps', b"\0\0\0", b'{"step": 9}'[:-3]):
        shutil.rmtree(out / "private/checkpoints")
        path.write_bytes(path.read_bytes()[:-4] + end)
        finished(out)
        steps = [json.loads(line)["step"] for line in path.read_text().splitlines()]
        assert steps[-1] == STEPS


@pytest.mark.parametrize(
    "end",
    [
        b'{"attempt": {"a": 1}, "step": [2]}',
        b'{"attempt": 0, "step": "2"}',
        b'{"attempt": null, "step": 2}',
        b"{}",
        b'[1, 2]\n"x"\n{"step": {}}',
    ],
)
def test_a_strange_line_of_the_private_log_does_not_stop_a_run(tmp_path, end):
    out = finished(tmp_path / "run")
    path = out / "private/log.jsonl"
    shutil.rmtree(out / "private/checkpoints")
    path.write_bytes(path.read_bytes() + end + b"\n")
    finished(out)
    path.write_bytes(end + b"\n")
    Run(out, options={}).private.close()


def test_a_strange_line_does_not_hide_the_log_before_it(tmp_path):
    out = finished(tmp_path / "run")
    shutil.rmtree(out / "export")
    for path in list((out / "private").iterdir()):
        if path.name != "log.jsonl":
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    with (out / "private/log.jsonl").open("a") as log:
        log.write('{"attempt": {"a": 1}, "step": [2]}\n')
    with pytest.raises(BadInput, match=r"ledger .*is missing"):
        Run(out, options={})


@pytest.mark.parametrize("steps", ["1e400", "[1]", '"x"', "null", "NaN"])
def test_a_card_with_a_strange_number_of_steps_stops_nothing(tmp_path, steps):
    out = finished(tmp_path / "run")
    card_file = out / "export/card.json"
    content = json.loads(card_file.read_text())
    card_file.write_text(json.dumps(content | {"steps_executed": "HERE"}).replace('"HERE"', steps))
    Run(out, options={}).private.close()


def broken(out: Path, line: int) -> Path:
    path = out / "private/ledger.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    lines[line] = lines[line].replace(b'"weights": "', b'"weights": "0')
    path.write_bytes(b"".join(lines))
    return path


@pytest.mark.parametrize("opened", [lambda out: Run(out, options={}), lambda out: card_facts(out, **WORDS)])
def test_a_broken_ledger_says_what_can_be_proved(tmp_path, opened):
    out = finished(tmp_path / "run")
    broken(out, 5)
    with pytest.raises(BadInput, match=r"line 6: changed.*Lines 1 to 5 .*3 steps in 1 attempts") as error:
        opened(out)
    text = str(error.value)
    bound = float(text.split("upper bound: epsilon ")[1].split(" ")[0])
    truth = make_plan().epsilon(steps=STEPS)
    assert truth <= bound <= make_plan().epsilon(steps=STEPS + 1) * 1.01 + 0.01, "one line cannot be read"
    assert "assumes that every attempt is in the file" in text


def test_lines_that_a_second_writer_added_are_in_the_bound(tmp_path):
    out = finished(tmp_path / "run")
    path = out / "private/ledger.jsonl"
    shutil.copytree(out / "private", tmp_path / "other")
    for folder, name in ((out / "private", "a"), (tmp_path / "other", "b")):
        with Ledger(folder / "ledger.jsonl") as ledger:
            ledger.attempt(fingerprint=name, fields={"data.record": "row"}, plan=make_plan().to_json(), start_step=0)
    added = (tmp_path / "other/ledger.jsonl").read_bytes().splitlines(keepends=True)[-1]
    path.write_bytes(path.read_bytes() + added)
    with pytest.raises(BrokenLedger, match="planned steps of the 3 attempts") as error:
        Run(out, options={})
    bound = float(str(error.value).split("upper bound: epsilon ")[1].split(" ")[0])
    assert bound == pytest.approx(make_plan().epsilon(steps=3 * STEPS), abs=0.02)


def test_a_ledger_without_an_attempt_left_proves_nothing(tmp_path):
    out = finished(tmp_path / "run")
    path = out / "private/ledger.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"kind": "attempt"', b'"kind": "attempx"'))
    with pytest.raises(BadInput, match="no epsilon can be proved"):
        Run(out, options={})
