"""Every numeric flag of every command with values that nothing can be done with: a sentence that names the flag, before
anything is loaded."""

import dataclasses
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.cli.hostile import check_plain, fields_of, hostile, told

from sfumato import cli
from sfumato.base.ranges import flag, ranges_of
from sfumato.cli import _training
from sfumato.cli._flags import LossFlags, PrivacyFlags
from sfumato.cli.doctor import DoctorCommand
from sfumato.cli.evaluate import EvaluateCommand
from sfumato.cli.finetune import FinetuneCommand
from sfumato.cli.plan import PlanCommand
from sfumato.cli.predict import PredictCommand
from sfumato.cli.simulate import SimulateCommand
from sfumato.cli.study import StudyCommand
from sfumato.cli.train import TrainCommand
from sfumato.recipes import config, dp_cap
from sfumato.recipes.capabilities import reads

TRAIN: dict[str, Callable[..., Any]] = {
    "dp-cap": lambda **flags: TrainCommand(recipe="dp-cap", data="shapes:1000", **flags),
    "dp-gcl": lambda **flags: TrainCommand(recipe="dp-gcl", data="shapes:1000", **flags),
    "logit-dp": lambda **flags: TrainCommand(recipe="logit-dp", data="shapes:1000", contrast="captions", **flags),
    "dp-vqa": lambda **flags: TrainCommand(recipe="dp-vqa", data="easy-vqa", unit="group", **flags),
    "dp-vlm": lambda **flags: TrainCommand(recipe="dp-vlm", data="easy-vqa", model="none", **flags),
}
BASE = {"noise_multiplier": 1.0}
NEVER = {"learning_rate", "clip_norm", "loss_scale", "steps", "expected_batch_size", "temperature", "window", "rank"}


def _fields(flags: dict[str, Any]) -> dict[str, Any]:
    return flags if "epsilon" in flags else {**BASE, **flags}


def _accept(*_: Any, **__: Any) -> Any:
    raise SystemExit(0)


@pytest.fixture
def planned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Training stops once its settings and its plan are made."""

    def plan(settings: Any, **_: Any) -> int:
        settings.plan(1000) if settings.privacy.epsilon is None else settings.privacy.plan
        return 0

    monkeypatch.setattr(_training, "carry_out", plan)


@pytest.mark.usefixtures("planned")
@pytest.mark.parametrize("recipe", TRAIN)
def test_train(recipe: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for name, value in hostile(TrainCommand):
        status, error = told(monkeypatch, capsys, "train", TRAIN[recipe](**_fields({name: value})))
        check_plain(status, error, flag(name), name)
        assert status == 2 or name not in NEVER or value == 10**9, (name, value)


@pytest.mark.usefixtures("planned")
def test_finetune(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    config.write_config(dp_cap("shapes:1000", tmp_path))
    for name, value in hostile(FinetuneCommand):
        command = FinetuneCommand(run=tmp_path, data="shapes:1000", **_fields({name: value}))
        status, error = told(monkeypatch, capsys, "finetune", command)
        check_plain(status, error, flag(name), name)


def test_plan(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    base = {"records": 1000, "noise_multiplier": 2.0, "expected_batch_size": 100, "steps": 10}
    for name, value in hostile(PlanCommand):
        hidden = {"delta": 1e-6, "records": None} if name == "sampling_prob" else {}
        own = {**base, **hidden}
        status, error = told(monkeypatch, capsys, "plan", PlanCommand(recipe="dp-gcl", **{**own, name: value}))
        check_plain(status, error, flag(name), name)


def test_simulate(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sfumato.recipes.simulate.linear_clip", _accept)
    for name, value in hostile(SimulateCommand):
        status, error = told(monkeypatch, capsys, "simulate", SimulateCommand(**{name: value}))
        check_plain(status, error, flag(name))


@pytest.mark.parametrize("study", ["contrastive", "vqa", "accounting-grid"])
def test_study(study: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sfumato.cli.study._STUDIES", {study: _accept})
    for name, value in hostile(StudyCommand):
        status, error = told(monkeypatch, capsys, "study", StudyCommand(study=study, **{name: value}))
        check_plain(status, error, flag(name))
        assert status == 2


def test_doctor(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sfumato.recipes.doctor.diagnose", _accept)
    for name, value in hostile(DoctorCommand):
        command = DoctorCommand(**{"model": "micro", "records": 1000, name: value})
        status, error = told(monkeypatch, capsys, "doctor", command)
        check_plain(status, error, flag(name), name)


def test_evaluate_and_predict(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sfumato.recipes.measure.evaluate_run", _accept)
    monkeypatch.setattr("sfumato.recipes.predict.predict", _accept)
    for kind, make in (
        (EvaluateCommand, lambda **flags: EvaluateCommand(run=tmp_path, **flags)),
        (PredictCommand, lambda **flags: PredictCommand(run=tmp_path, images=(tmp_path,), **flags)),
    ):
        for name, value in hostile(kind):
            command = kind.__name__.removesuffix("Command").lower()
            status, error = told(monkeypatch, capsys, command, make(**{name: value}))
            check_plain(status, error, flag(name))


@pytest.mark.parametrize("value", ["nan", "inf", "1e30", "x", "9" * 5000])
def test_what_is_no_whole_number_is_refused_by_the_parser(value: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["study", "vqa", "--jobs", value]) == 2
    told_of = capsys.readouterr().err
    assert "--jobs" in told_of
    assert "Traceback" not in told_of


def test_every_numeric_flag_of_a_command_without_settings_has_a_range() -> None:
    of_settings = {f.name for flags in (PrivacyFlags, LossFlags) for f in dataclasses.fields(flags)}
    for command in (PlanCommand, StudyCommand, EvaluateCommand, PredictCommand):
        found = {name for name, _ in hostile(command)}
        ranged = {name for name, _ in ranges_of(command)}
        assert found <= ranged
        assert ranged - found <= (of_settings if command is PlanCommand else set())


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"learning_rate": float("inf")}, "--learning-rate"),
        ({"learning_rate": 1e30}, "--learning-rate"),
        ({"learning_rate": 0.0}, "--learning-rate"),
        ({"clip_norm": 1e300}, "--clip-norm"),
        ({"clip_norm": 1e-300}, "--clip-norm"),
        ({"loss_scale": 0.0}, "--loss-scale"),
        ({"loss_scale": -1.0}, "--loss-scale"),
        ({"dropout": 1.0}, "--dropout"),
        ({"ema_decay": 1.0}, "--ema-decay"),
        ({"holdout": 1.0}, "--holdout"),
        ({"holdout": 1.5}, "--holdout"),
        ({"epsilon": 0.0}, "--epsilon"),
        ({"delta": 1.0}, "--delta"),
        ({"steps": 10**9}, "116 days"),
        ({"image_size": 100_000}, "120.0 GB"),
        ({"max_tokens": 100_000}, "40.0 GB"),
        ({"num_workers": 10_000}, "--num-workers"),
        ({"steps": 10**6, "expected_batch_size": 10**9}, "--expected-batch-size"),
    ],
)
def test_nothing_is_spent_on_a_setting_that_cannot_work(
    flags: dict[str, Any],
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    command = TrainCommand(recipe="dp-cap", data="shapes:100000", out=tmp_path / "run", **flags)
    status, error = told(monkeypatch, capsys, "train", command)
    assert status == 2
    check_plain(status, error, words)
    assert not (tmp_path / "run").exists()


def test_rows_that_cannot_fit_are_refused_with_the_estimate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = TrainCommand(
        recipe="dp-cap", data="shapes:1000", image_size=4096, micro_batch_size=100_000, out=tmp_path / "run"
    )
    status, error = told(monkeypatch, capsys, "train", command)
    check_plain(status, error, "--micro-batch-size 100,000 pictures of --image-size 4,096 take 20,132.7 GB")
    assert status == 2


# As text, through the parser, for every command there is and every flag that takes a number.
WORDS = ("nan", "-inf", "-1", "0", "1e300", "1e-300", "", "x", "1,5", "9" * 400, "9" * 5000)


def _typed(name: str) -> tuple[Any, type, list[str]]:
    """Return the module and the flags of a command, and the shortest line that it takes."""
    module: Any = cli._load(name)
    command = getattr(module, f"{name.capitalize()}Command")
    if name == "train":  # the recipe decides which flags there are
        return module, command, ["train", "dp-cap", "--data", "nowhere"]
    line = [name]
    for field in dataclasses.fields(command):
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            kind = typing.get_args(field.type)[0] if typing.get_origin(field.type) is typing.Annotated else field.type
            word = typing.get_args(kind)[0] if typing.get_origin(kind) is typing.Literal else "nowhere"
            line += [word] if typing.get_origin(field.type) is typing.Annotated else [flag(field.name), word]
    return module, command, line


@pytest.mark.every(2)
@pytest.mark.parametrize("name", cli.COMMANDS)
def test_any_text_as_a_number(name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    module, command, line = _typed(name)
    monkeypatch.setattr(module, "run", lambda _: 0)
    assert cli.main(line) == 0, "the line is taken as it stands"
    monkeypatch.setenv("COLUMNS", "6000")
    for field, _, several in fields_of(command):
        if name == "train" and not reads("dp-cap", field):
            continue
        for word in WORDS:
            words = [word, word] if field == "window" else [word, *([word] if several else [])]
            capsys.readouterr()
            status = cli.main([*line, flag(field), *words])
            told_of = "".join(capsys.readouterr())
            assert "unexpected" not in told_of, (field, word[:9], told_of[:300])
            assert "Traceback" not in told_of, (field, word[:9], told_of[:300])
            assert status == 0 or (status == 2 and flag(field) in told_of), (field, word[:9], status, told_of[:300])


def test_every_command_with_a_numeric_flag_is_tried_above() -> None:
    tried = {"train", "finetune", "plan", "simulate", "study", "doctor", "evaluate", "predict"}
    assert {name for name in cli.COMMANDS if list(fields_of(_typed(name)[1]))} == tried
