"""The recipe under torchrun with two processes: one run, one card, one release."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def test_dp_cap_on_two_processes(tmp_path: Path) -> None:
    out = tmp_path / "run"
    command = [
        sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-addr", "127.0.0.1",
        "--master-port", str(free_port()), "-m", "sfumato", "train", "dp-cap", "--data", "shapes:600",
        "--expected-batch-size", "24", "--steps", "3", "--noise-multiplier", "1.0", "--micro-batch-size", "16",
        "--out", str(out),
    ]  # fmt: skip
    env = {**os.environ, "OMP_NUM_THREADS": "1", "SFUMATO_DEBUG": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=300, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    card = json.loads((out / "export" / "card.json").read_text())
    assert card["steps_executed"] == 3
    assert (out / "export" / "model.safetensors").is_file()
