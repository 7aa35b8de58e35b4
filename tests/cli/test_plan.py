"""`sfumato plan`: the paper's figures, what is solved for, JSON, the table, and all of it without torch."""

import json
import os
import subprocess
import sys
import types
from dataclasses import replace

import pytest
import tyro

from sfumato import cli
from sfumato.base import BadInput, Refused
from sfumato.cli.plan import EXAMPLES, PlanCommand, plans_of, run

KEYS = {"noise_multiplier", "noise_std", "presence", "swap", "sampling_prob", "steps", "delta", "epsilon_pld"}
KEYS |= {"epsilon_rdp", "relation", "unit"}
SMALL = ("--records", "10000", "--expected-batch-size", "100", "--steps", "50")


def parse(*flags):
    return tyro.cli(PlanCommand, args=["dp-cap", *flags])


def as_json(capsys, *flags):
    assert run(parse(*flags, "--json")) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize(
    ("records", "batch", "noise", "steps", "rdp", "pld"),
    [
        ("233804767", "1310720", "0.728", "5708", 8.05, 7.34),
        ("233804767", "1310720", "1.18", "2854", 1.99, 1.78),
        ("233804767", "200000", "0.513", "5700", 7.98, 6.85),
        ("2000000000", "1310720", "0.527", "5000", 7.30, 6.30),
    ],
)
def test_the_accounting_rows_of_the_paper(capsys, records, batch, noise, steps, rdp, pld):
    flags = ["--records", records, "--expected-batch-size", batch, "--noise-multiplier", noise, "--steps", steps]
    found = as_json(capsys, *flags, "--delta", repr(1 / int(records)))
    assert (round(found["epsilon_rdp"], 2), round(found["epsilon_pld"], 2)) == (rdp, pld)
    assert found["relation"] == "zero_out"
    assert "publishing one whole record" in found["warnings"][0]  # delta = 1/N


def test_json_of_one_plan(capsys):
    found = as_json(capsys, *SMALL, "--epsilon", "0.5")
    assert set(found) >= KEYS
    assert 0.4975 < found["epsilon_pld"] <= 0.5 < found["epsilon_rdp"]
    assert found["noise_std"] == found["noise_multiplier"] * found["presence"]
    assert found["delta"] == 1e-5
    assert 0.01 < found["max_true_positive_rate"] < 0.1
    assert found["not_covered"]
    fewer = as_json(capsys, *SMALL, "--epsilon", "0.5", "--num-parameters", str(found["num_parameters"] // 4))
    assert fewer["signal_to_noise"] == pytest.approx(2 * found["signal_to_noise"], rel=1e-3)


def test_table_without_epsilon(capsys):
    flags = ("--records", "10000", "--expected-batch-size", "1000", "--steps", "300", "--accountant", "rdp")
    found = as_json(capsys, *flags)
    assert [round(row["epsilon_rdp"], 2) for row in found] == [1.0, 2.0, 4.0, 8.0]
    noise = [row["noise_multiplier"] for row in found]
    assert noise == sorted(noise, reverse=True)
    assert run(parse(*flags)) == 0
    text = capsys.readouterr().out
    for word in ("noise", "signal", "epochs", "FPR", "does not cover", "Tuning", "zero_out"):
        assert word in text
    for row in found:
        assert f"{row['noise_multiplier']:.5g}" in text


def test_listing_of_one_plan(capsys):
    run(parse(*SMALL, "--noise-multiplier", "2", "--delta", "0.001", "--tan", "4"))
    text = " ".join(capsys.readouterr().out.split())
    for words in ("2 (std / presence)", "2 on the sum", "Warning: delta 0.001", "carries no epsilon"):
        assert words in text
    assert "noise multiplier 0.5, batch 25, 50 steps" in text


def test_solves_for_what_is_left_out():
    (plan,) = plans_of(parse(*SMALL, "--epsilon", "1"))
    assert plan.steps == 50
    assert plan.epsilon() <= 1.0
    flags = ("--records", "10000", "--noise-multiplier", "2", "--epsilon", "0.5", "--accountant", "rdp")
    (by_steps,) = plans_of(parse(*flags, "--expected-batch-size", "100"))
    assert by_steps.epsilon_rdp() <= 0.5 < by_steps.epsilon_rdp(by_steps.steps + 1)
    (by_batch,) = plans_of(parse(*flags, "--steps", "50"))
    assert by_batch.steps == 50
    groups = replace(parse(*flags, "--steps", "50"), recipe="dp-gcl")
    with pytest.raises(BadInput, match="depends on the batch size here: give --expected-batch-size"):
        plans_of(groups)
    assert by_batch.epsilon_rdp() <= 0.5 < by_batch.with_batch_size(by_batch.divisor + 2).epsilon_rdp()
    with pytest.raises(BadInput, match="leave out one"):
        plans_of(parse(*SMALL, "--noise-multiplier", "2", "--epsilon", "1"))


def test_defaults_are_the_recipes():
    (plan,) = plans_of(parse("--records", "60000", "--noise-multiplier", "1"))
    assert (plan.divisor, plan.steps, plan.delta) == (4096, 2000, 1 / 600_000)
    (built_in,) = plans_of(parse("--records", "60000", "--noise-multiplier", "1", "--data", "fashion-mnist"))
    assert (built_in.divisor, built_in.steps) == (8192, 300)


def test_parameters_are_those_of_the_captioner_that_is_trained(capsys):
    assert as_json(capsys, *SMALL, "--noise-multiplier", "2")["num_parameters"] == 20_800_000
    assert as_json(capsys, *SMALL, "--noise-multiplier", "2", "--size", "micro")["num_parameters"] == 170_000
    for recipe in ("dp-clip", "dp-gcl", "logit-dp"):  # towers of the same name are other models
        assert run(replace(parse(*SMALL, "--noise-multiplier", "2", "--json"), recipe=recipe)) == 0
        assert json.loads(capsys.readouterr().out)["num_parameters"] == 170_000


def test_other_samplers_and_relations():
    (fixed,) = plans_of(parse(*SMALL, "--sampler", "fixed", "--noise-multiplier", "8"))
    assert (str(fixed.relation), fixed.sampler.batch_size) == ("replace_one", 100)
    (full,) = plans_of(parse("--records", "100", "--sampler", "full-batch", "--steps", "9", "--noise-multiplier", "40"))
    assert full.divisor == 100
    (capped,) = plans_of(parse(*SMALL, "--cap", "200", "--noise-multiplier", "2"))
    assert capped.sampler.cap == 200
    (replaced,) = plans_of(parse(*SMALL, "--relation", "replace_one", "--noise-multiplier", "2"))
    assert str(replaced.relation) == "replace_one"
    (automatic,) = plans_of(parse(*SMALL, "--clip", "automatic", "--clip-norm", "0.1", "--noise-multiplier", "2"))
    assert (automatic.unit.clip, automatic.presence) == ("automatic", 0.1)


def test_fixed_size_prints_no_pld(capsys):
    run(parse(*SMALL, "--sampler", "fixed", "--noise-multiplier", "8"))
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["epsilon", "(PLD)", "-"] in lines
    assert ["found", "at", "1", "%", "FPR", "-"] in lines


def test_hidden_number_of_records(capsys):
    flags = ("--sampling-prob", "0.01", "--expected-batch-size", "100", "--delta", "1e-6", "--noise-multiplier", "2")
    found = as_json(capsys, *flags, "--steps", "50")
    assert found["relation"] == "add_remove"
    (plan,) = plans_of(parse(*flags))
    assert plan.steps == 2000, "the recipe's"
    with pytest.raises(BadInput, match="delta"):
        plans_of(parse("--sampling-prob", "0.01", "--expected-batch-size", "100", "--noise-multiplier", "2"))
    with pytest.raises(Refused, match="zero_out"):
        plans_of(parse(*SMALL, "--relation", "add_remove", "--noise-multiplier", "2"))


def test_simulation(capsys):
    found = as_json(capsys, *SMALL, "--noise-multiplier", "2", "--tan", "4")
    assert found["is_simulation"]
    assert found["epsilon_pld"] is found["epsilon_rdp"] is found["max_true_positive_rate"] is None
    assert (found["noise_multiplier"], found["expected_batch_size"]) == (0.5, 25.0)


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        ([], "--records"),
        (["--records", "10", "--sampling-prob", "0.1"], "--records"),
        (["--records", "0"], "--records"),
        (["--sampling-prob", "0.1", "--sampler", "fixed"], "--records"),
        (["--records", "10", "--sampler", "fixed", "--cap", "5"], "--cap"),
        (["--records", "10", "--sampler", "full-batch", "--expected-batch-size", "5"], "full-batch"),
        (["--records", "10", "--expected-batch-size", "11"], "exceeds"),
        (["--records", "10", "--steps", "0"], "steps"),
    ],
)
def test_wrong_use_is_named(flags, named):
    with pytest.raises(BadInput, match=named):
        plans_of(parse(*flags, "--noise-multiplier", "1"))


def test_benchmark_adds_hours_and_memory(capsys, monkeypatch):
    asked = []

    def measure(*arguments):
        asked.append(arguments)
        return {"hours": 1.5, "memory_bytes": 2e9}

    fake = types.ModuleType("sfumato.recipes.benchmark")
    fake.measure = measure
    monkeypatch.setitem(sys.modules, "sfumato.recipes.benchmark", fake)
    found = as_json(capsys, *SMALL, "--noise-multiplier", "2", "--benchmark", "--size", "tiny")
    assert (found["hours"], found["memory_bytes"]) == (1.5, 2e9)
    assert asked == [("tiny", None, 64, 100.0, 50)]
    run(parse(*SMALL, "--noise-multiplier", "2", "--benchmark"))
    assert "1.5 hours, 2.00 GB" in capsys.readouterr().out


WITHOUT_TORCH = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "torchvision", "transformers"):
            raise ModuleNotFoundError(f"{name} is blocked", name=name)
sys.meta_path.insert(0, Blocker())
from sfumato.cli import main
code = main(sys.argv[1:])
assert "torch" not in sys.modules
sys.exit(code)
"""


def without_torch(*flags):
    environment = os.environ | {"COLUMNS": "100"}
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", WITHOUT_TORCH, "plan", "dp-cap", *flags],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )


def test_plans_without_torch():
    done = without_torch(*SMALL, "--noise-multiplier", "2", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    assert set(json.loads(done.stdout)) >= KEYS


def test_benchmark_without_torch_is_one_sentence():
    done = without_torch(*SMALL, "--noise-multiplier", "2", "--benchmark")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert "--benchmark measures with PyTorch" in done.stderr


def test_help_and_examples(capsys):
    assert cli.main(["plan", "--help"]) == 0
    text = capsys.readouterr().out
    for flag in ("--records", "--sampling-prob", "--epsilon", "--tan", "--benchmark"):
        assert flag in text
    assert EXAMPLES.strip().splitlines()[0] in text


def test_a_batch_beyond_the_records_is_told_in_flags(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["plan", "--records", "12", "--delta", "1e-3", "--expected-batch-size", "400"]) == 2
    shown = capsys.readouterr().err
    assert "--expected-batch-size 400" in shown
    assert "the number of records, 12" in shown
    assert "num_records" not in shown
