"""A complete set of facts, and run folders made of it."""

import base64
import json
import struct
import zlib
from pathlib import Path
from typing import Any

import pytest

from sfumato.report import card


def png(width: int = 2, height: int = 2, grey: int = 128) -> str:
    """Return a tiny grey PNG in base64, written by hand: the report may not know Pillow."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    rows = zlib.compress(bytes([0, *[grey] * width]) * height)
    raw = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    return base64.b64encode(raw).decode()


@pytest.fixture
def facts() -> dict[str, Any]:
    return {
        "record": "one patient, all their pictures",
        "owner_column": "patient",
        "unit": "example: clipped to 1",
        "relation": "zero_out",
        "sampling": "Poisson: each record independently",
        "sampling_prob": 0.02,
        "expected_batch_size": 1200.0,
        "mechanism": "clipped to 1, summed, noise, divided",
        "presence": 1.0,
        "swap": 2.0,
        "noise_std": 1.5,
        "noise_multiplier": 1.5,
        "divisor": 1200.0,
        "accountant": "pld",
        "epsilon": 2.996,
        "epsilon_pld": 2.996,
        "epsilon_rdp": 3.2041,
        "delta": 1e-6,
        "steps_executed": 410,
        "steps_planned": 400,
        "attempts": 2,
        "ledger_head": "ab" * 32,
        "public": {
            "num_records": 60_000,
            "vocabulary": "public templates",
            "normalisation": "constants",
            "initialisation": "random",
            "seed": "secret",
        },
        "left_out": {
            "tuning": "settings chosen on synthetic pictures",
            "evaluation": "public test pictures",
            "who_sees_what": "export/ is shared, private/ is not",
        },
        "looks": [],
        "versions": {"sfumato": "0.1.0"},
        "stamps": [],
    }


@pytest.fixture
def picture() -> str:
    return png()


@pytest.fixture
def run(tmp_path: Path, facts: dict[str, Any], picture: str) -> Path:
    """A run folder with every public file, and a private one that nobody may open."""
    folder = tmp_path / "x"
    export = folder / "export"
    (folder / "private").mkdir(parents=True)
    (folder / "private" / "log.jsonl").write_text('{"loss": 0.123454321}\n')
    config = {"recipe": "dp-cap", "data": {"spec": "/home/clinic/pictures"}, "model": {"size": "micro"}}
    (folder / "run.json").write_text(json.dumps(config))
    card.write(card.build(facts), export)
    lines = [json.dumps({"step": step, "epsilon": 0.15 * step**0.5}) for step in range(0, 401, 20)]
    (export / "progress.jsonl").write_text("\n".join(lines) + "\n")
    rows = [
        {"metric": "probe", "features": "this run", "step": 200, "value": 0.7, "chance": 0.1},
        {
            "metric": "probe",
            "features": "this run",
            "step": 400,
            "value": 0.8,
            "low": 0.79,
            "high": 0.81,
            "chance": 0.1,
        },
        {"metric": "probe", "features": "raw pixels", "value": 0.75, "chance": 0.1},
    ]
    (export / "metrics.json").write_text(json.dumps({"rows": rows}))
    samples = [{"image_png_base64": picture, "reference": "a red circle", "generated": "a red square"}]
    (export / "samples.json").write_text(json.dumps(samples))
    attention = [{"image_png_base64": picture, "overlay_png_base64": picture, "caption": "a red circle"}]
    (export / "attention.json").write_text(json.dumps(attention))
    return folder
