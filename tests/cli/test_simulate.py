"""`sfumato simulate linear-clip`: its rows, files, words and refusals, at a size of seconds."""

import json
from pathlib import Path

import pytest

from sfumato.cli import main
from sfumato.plan import Group, Plan
from sfumato.recipes import simulate
from sfumato.sampling import Poisson

SMALL = ("--batch-size", "200", "--steps", "30", "--num-groups", "10", "--repeats", "2")
ONE = ("--epsilon", "8", "--num-records", "2000", "--dim", "8", "--rank", "2", "--signal", "4")


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    out = tmp_path_factory.mktemp("theory")
    lists = ("--epsilon", "8", "2", "--num-records", "2000", "--dim", "8", "16", "--rank", "2", "--signal", "4")
    assert main(["simulate", "linear-clip", *SMALL, *lists, "--out", str(out / "new"), "--json"]) == 0
    assert sorted(path.name for path in (out / "new").iterdir()) == ["dim.svg", "epsilon.svg", "rows.json"]
    return json.loads((out / "new" / "rows.json").read_text())


def test_each_point_changes_the_base_in_one_place(rows: list[dict]) -> None:
    assert [(row["epsilon"], row["dim"], row["clipping"]) for row in rows] == [
        (epsilon, dim, clipping) for epsilon, dim in ((8, 8), (2, 8), (8, 16)) for clipping in ("batch", "group")
    ]


def test_noise_meets_epsilon_under_a_plan(rows: list[dict]) -> None:
    for row in rows:
        plan = Plan(
            unit=Group(clip_norm=0.5, num_groups=row["num_groups"]),
            sampler=Poisson(num_records=2000, expected_batch_size=200),
            steps=30,
            noise_multiplier=row["noise_multiplier"],
        )
        assert 0.99 * row["epsilon"] < plan.epsilon() <= row["epsilon"]
        assert plan.delta == row["delta"]
        assert row["noise_std"] == pytest.approx(row["noise_multiplier"] * 2 * 0.5 / row["num_groups"], rel=1e-12)


def test_terms_add_up_and_the_trade_off_has_its_direction(rows: list[dict]) -> None:
    for row in rows:
        parts = row["optimisation"] + row["privacy"] + row["sampling"] + row["statistical"]
        assert row["predicted"] ** 2 == pytest.approx(parts, rel=1e-12)
        assert row["simulated"] == pytest.approx(row["predicted"], rel=0.35)
        assert row["simulated_error"] > 0
    batch, group, batch_2, group_2, batch_wide, group_wide = (row["predicted"] for row in rows)
    assert group < batch
    assert batch < batch_2
    assert group < group_2
    assert batch < batch_wide
    assert group < group_wide


def test_the_same_seed_gives_the_same_rows_and_another_does_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], rows: list[dict]
) -> None:
    given = ["simulate", "linear-clip", *SMALL, *ONE, "--out", str(tmp_path), "--json"]
    assert main(given) == 0
    assert json.loads(capsys.readouterr().out) == rows[:2]
    assert main([*given, "--seed", "1"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["simulated"] != rows[0]["simulated"]


def test_the_table_fits_a_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["simulate", *SMALL, *ONE, "--repeats", "1", "--out", str(tmp_path)]
    assert main(given) == 0
    shown = capsys.readouterr().out
    assert "base: epsilon 8, n 2,000, d 8, r 2, snr 4" in shown
    assert all(name in shown for name in ("optim", "priv", "sampl", "stat", "pred", "simul", "batch", "group"))
    assert "…" not in shown
    assert json.loads((tmp_path / "rows.json").read_text())[0]["simulated_error"] is None


def test_points_are_named_by_what_they_change(rows: list[dict]) -> None:
    assert [row["point"] for row in simulate.shown(rows)[::2]] == ["base", "epsilon 2", "d 16"]
    assert simulate.shown(rows)[0]["pred"] == f"{rows[0]['predicted']:.3f}"


def test_one_group_is_shown_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["simulate", *SMALL, *ONE, "--num-groups", "1", "--out", str(tmp_path), "--json"]
    assert main(given) == 0
    assert [row["clipping"] for row in json.loads(capsys.readouterr().out)] == ["batch"]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--rank", "5"), "dim 8 is too small for rank 5"),
        (("--epsilon", "0"), "--epsilon must be a number"),
        (("--epsilon", "8", "8"), "--epsilon needs one or more different values"),
        (("--signal", "-1"), "--signal must be a number"),
        (("--num-records", "100"), "--batch-size 200.0 exceeds --num-records 100"),
        (("--repeats", "0"), "--repeats must be a whole number"),
        (("--seed", "-1"), "--seed must be a whole number"),
        (("--num-groups", "0"), "--num-groups must be a whole number"),
        (("--clip-norm", "0"), "--clip-norm must be a number"),
        (("--steps", "0"), "--steps must be a whole number"),
        (("--start-angle", "2"), "--start-angle must be a number"),
        (("--num-records", "999999999", "--repeats", "100"), "GB of data at once"),
        (("--steps", "1000000", "--repeats", "10000", "--num-records", "300"), "hours: choose smaller ones"),
    ],
)
def test_wrong_use_is_one_sentence_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: tuple[str, ...], words: str
) -> None:
    assert main(["simulate", "linear-clip", *SMALL, *ONE, *flags, "--out", str(tmp_path / "new")]) == 2
    error = capsys.readouterr().err
    assert words in error.splitlines()[-1]
    assert not (tmp_path / "new").exists()


def test_help_has_examples(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["simulate", "--help"]) == 0
    assert "sfumato simulate linear-clip --epsilon 1 2 4 8 16" in capsys.readouterr().out
