"""A folder as a hospital might export it: for tests that need private-looking data from end to end.

Patients have one to four pictures of 12 bits in 16-bit PNG and TIFF files, some truncated or no pictures at all; a CSV
with the columns file, text, patient stands beside them. The text names what the picture shows (a bright disc, left or
right, small or large), so that a captioner can learn it. Everything is a function of `seed`.
"""

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

WINDOW = (0.0, 4095.0)
COLUMNS = {"image": "file", "caption": "text", "owner": "patient"}


@dataclass(frozen=True, kw_only=True)
class Hospital:
    """What was written.

    Attributes:
        root: folder of the pictures.
        table: the CSV, outside `root`.
        num_patients, num_rows: counts.
        broken: row numbers (from 0) of files that cannot be decoded.
    """

    root: Path
    table: Path
    num_patients: int
    num_rows: int
    broken: tuple[int, ...]


def build_hospital(
    folder: Path, *, num_patients: int = 12, image_size: int = 48, num_broken: int = 3, seed: int = 0
) -> Hospital:
    """Write the export below `folder` and say what it holds."""
    rng = np.random.default_rng(seed)
    root, table = folder / "pictures", folder / "reports.csv"
    root.mkdir(parents=True)
    rows: list[tuple[str, str, str]] = []
    for patient in range(num_patients):
        for visit in range(1 + patient % 4):
            pixels, text = _finding(rng, image_size)
            name = f"P{patient:04d}/visit{visit}.{'png' if patient % 2 else 'TIF'}"
            (root / name).parent.mkdir(exist_ok=True)
            Image.fromarray(pixels).save(root / name)
            rows.append((name, text, f"P{patient:04d}"))
    broken = tuple(sorted(rng.choice(len(rows), num_broken, replace=False).tolist())) if num_broken else ()
    for place, row in enumerate(broken):
        path = root / rows[row][0]
        whole = path.read_bytes()
        path.write_bytes(b"no picture at all" if place == 0 else whole[: len(whole) // 2])
    with table.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("file", "text", "patient"), *rows])
    return Hospital(root=root, table=table, num_patients=num_patients, num_rows=len(rows), broken=broken)


def _finding(rng: np.random.Generator, size: int) -> tuple[np.ndarray, str]:
    side, extent = ("left", "right")[int(rng.integers(2))], ("small", "large")[int(rng.integers(2))]
    x = size * ((0.28 if side == "left" else 0.72) + rng.uniform(-0.05, 0.05))
    y = size * rng.uniform(0.35, 0.65)
    radius = size * (0.08 if extent == "small" else 0.18)
    rows, columns = np.mgrid[:size, :size]
    inside = (columns - x) ** 2 + (rows - y) ** 2 < radius**2
    pixels = rng.normal(900, 60, (size, size)) + 2200 * inside
    return np.clip(pixels, 0, 4095).astype(np.uint16), f"{extent} opacity in the {side} lung"
