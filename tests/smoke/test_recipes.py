"""Every recipe for three steps, on one process and under torchrun on two: one run, one card, one release."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from tests.recipes.asked import checkpoint

from sfumato.cli import main

RECIPES = {
    "dp-cap": ["dp-cap"],
    "dp-clip": ["dp-clip"],
    "dp-gcl": ["dp-gcl", "--group-size", "6"],
    "logit-dp of captions": ["logit-dp", "--contrast", "captions"],
    "logit-dp of views": ["logit-dp", "--norms", "bound"],  # exact norms of one encoder are for one process
}
ASKED = {
    "dp-vqa": ["dp-vqa", "--image-size", "16"],
    "dp-vqa of a batch": ["dp-vqa", "--image-size", "16", "--unit", "batch"],
    "dp-vlm": ["dp-vlm", "--rank", "2", "--model"],
}
SMALL = ["--data", "shapes:600", "--expected-batch-size", "24", "--steps", "3", "--noise-multiplier", "1.0"]
FEW = [
    "--data",
    "shape-questions:40",
    "--expected-batch-size",
    "8",
    "--steps",
    "3",
    "--noise-multiplier",
    "1.0",
    "--delta",
    "1e-4",
]
WEIGHTS, ADAPTER = "model.safetensors", "adapter_model.safetensors"


def command_of(name: str, folder: Path) -> list[str]:
    """What is typed behind `sfumato train`; a vision-language model gets a small checkpoint."""
    if name in RECIPES:
        return [*RECIPES[name], *SMALL, "--micro-batch-size", "16", "--out", str(folder / "run")]
    model = [str(checkpoint("llava", folder))] if name == "dp-vlm" else []
    return [*ASKED[name], *model, *FEW, "--micro-batch-size", "8", "--out", str(folder / "run")]


@pytest.mark.every(2)
@pytest.mark.parametrize("name", [*RECIPES, *ASKED])
def test_one_process(tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    export, command = tmp_path / "run" / "export", ["train", *command_of(name, tmp_path)]
    assert main(command) == 0
    card = json.loads((export / "card.json").read_text())
    assert card["steps_executed"] == 3
    assert card["epsilon"] > 0
    weights = export / (ADAPTER if name == "dp-vlm" else WEIGHTS)
    before = weights.read_bytes()
    assert main(command) == 0, "the same command again finds the run finished"
    again = json.loads((export / "card.json").read_text())
    assert (again["epsilon"], again["ledger_head"]) == (card["epsilon"], card["ledger_head"])
    assert weights.read_bytes() == before
    if name in ASKED:
        assert card["unit"].startswith("group" if name.endswith("batch") else "example")
        return
    capsys.readouterr()
    assert main(["plan", name.split()[0], "--records", "600", "--noise-multiplier", "1.0", "--json"]) == 0
    kind = json.loads(capsys.readouterr().out)["unit"].partition(":")[0]
    assert card["unit"].startswith(kind), "the planner and the recipe speak of one unit"


@pytest.mark.every(6)
@pytest.mark.parametrize("name", [*RECIPES, *ASKED])
def test_two_processes(tmp_path: Path, name: str) -> None:
    export = tmp_path / "run" / "export"
    command = [
        sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-addr", "127.0.0.1",
        "--master-port", str(free_port()), "-m", "sfumato", "train", *command_of(name, tmp_path),
    ]  # fmt: skip
    env = {**os.environ, "OMP_NUM_THREADS": "1", "SFUMATO_DEBUG": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=300, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    card = json.loads((export / "card.json").read_text())
    assert card["steps_executed"] == 3
    assert (export / (ADAPTER if name == "dp-vlm" else WEIGHTS)).is_file()


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]
