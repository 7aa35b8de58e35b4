"""Three short runs of a fixed seed give the bits that they gave before: what moves code may not move a release.

A captioner under the unit example, towers of groups and an encoder of pairs are trained by the command for three
steps. What is compared with `tests/pinned.json`:

- `steps`: of the ledger's entries, so of the weights before every step and of every clipped sum before noise;
- `export`: of names, shapes and bits of all tensors that leave;
- `sizes`: the norm of each tensor that leaves.

Bits depend on the versions of the libraries and on the processor, so hashes are kept for each of those that were seen;
anywhere else the norms are compared, which a change of noise, of a clipped sum or of a start moves by far more than
their tolerance. After a change that has to move bits, and names its reason in its commit:

    python -m tests.test_pinned
"""

import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file

from sfumato.base import ledger
from sfumato.cli import main
from sfumato.train import fingerprint

STORED = Path(__file__).with_name("pinned.json")
RUNS = {
    "captioner, example": ["dp-cap", "--warmup-steps", "1"],
    "towers, group": ["dp-gcl", "--group-size", "6"],
    "encoder, pair": ["logit-dp"],
}
COMMON = [
    "--data", "shapes:120", "--expected-batch-size", "12", "--steps", "3", "--noise-multiplier", "1.0",
    "--delta", "1e-4", "--micro-batch-size", "8", "--seed", "3",
]  # fmt: skip
TOLERANCE = 1e-4


def environment() -> str:
    """Name what bits depend on besides this project's code."""
    versions = f"torch {torch.__version__}, numpy {np.__version__}, transformers {transformers.__version__}"
    return f"{versions}, {torch.backends.cpu.get_cpu_capability()}, {_processor()}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return "unknown processor"
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else "unknown processor"


def trained(name: str, folder: Path) -> dict[str, Any]:
    """Train one run and return what is compared. Noise is keyed by the run's name, not by the code's own hash."""
    out = folder / "run"
    key = hashlib.sha256(name.encode()).hexdigest()
    with patch.object(fingerprint, "digest", lambda fields: key):
        assert main(["train", *RUNS[name], *COMMON, "--out", str(out)]) == 0
    entries = ledger.read(out / "private/ledger.jsonl").steps.values()
    steps = hashlib.sha256(repr([(e.step, e.weights, e.clipped_sum) for e in entries]).encode())
    tensors = load_file(out / "export/model.safetensors")
    export = hashlib.sha256()
    for tensor_name in sorted(tensors):
        tensor = tensors[tensor_name]
        export.update(f"{tensor_name} {tuple(tensor.shape)} {tensor.dtype}".encode() + tensor.numpy().tobytes())
    sizes = {tensor_name: float(tensor.double().norm()) for tensor_name, tensor in sorted(tensors.items())}
    return {"steps": steps.hexdigest(), "export": export.hexdigest(), "sizes": sizes}


def differences(found: dict[str, Any], stored: dict[str, Any], here: str) -> list[str]:
    """Return what differs from what is stored for one run."""
    bits = stored["bits"].get(here)
    if bits is not None:
        return [kind for kind in ("steps", "export") if found[kind] != bits[kind]]
    if found["sizes"].keys() != stored["sizes"].keys():
        return [f"names of tensors: {sorted(found['sizes'].keys() ^ stored['sizes'].keys())}"]
    return [
        f"{name}: {size:.6g}, was {stored['sizes'][name]:.6g}"
        for name, size in found["sizes"].items()
        if abs(size - stored["sizes"][name]) > TOLERANCE * (1e-3 + abs(stored["sizes"][name]))
    ]


@pytest.mark.parametrize("name", RUNS)
def test_a_run_gives_the_bits_that_it_gave(name: str, tmp_path: Path) -> None:
    stored = json.loads(STORED.read_text())[name]
    assert differences(trained(name, tmp_path), stored, environment()) == []


def test_another_seed_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.test_pinned.COMMON", [*COMMON[:-1], "4"])
    stored = json.loads(STORED.read_text())["captioner, example"]
    found = trained("captioner, example", tmp_path)
    assert differences(found, stored, environment())
    assert differences(found, stored, "a processor that was never seen")


def renew() -> None:
    """Write what the runs give here; what is stored of other environments is left out, for it is no longer true."""
    stored = {}
    for name in RUNS:
        with tempfile.TemporaryDirectory() as folder:
            found = trained(name, Path(folder))
        bits = {environment(): {kind: found[kind] for kind in ("steps", "export")}}
        stored[name] = {"bits": bits, "sizes": found["sizes"]}
    text = json.dumps(stored, indent=1, sort_keys=True) + "\n"
    temporary = STORED.with_suffix(".new")
    temporary.write_text(text)
    os.replace(temporary, STORED)


if __name__ == "__main__":
    renew()
