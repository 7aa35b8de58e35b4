"""What a report shows of a run folder: `run.json` and `export/`; of `private/` it reads the ledger alone, to hold the
card against it. An absent file is left out."""

import base64
import binascii
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sfumato.base import BadInput, checksums
from sfumato.base.files import read_log
from sfumato.base.parse import parsed
from sfumato.report.metrics import chapters
from sfumato.report.numbers import can_be_drawn
from sfumato.report.suites import evaluations, suite_rows

log = logging.getLogger(__name__)

_PNG = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True, kw_only=True)
class Picture:
    """One public held-out picture: PNG in base64, and its texts. `overlay` is the picture under its attention map."""

    image: str
    reference: str = ""
    generated: str = ""
    overlay: str | None = None


@dataclass(frozen=True, kw_only=True)
class RunFiles:
    """The public files of a run, read. What a run did not write is None or empty."""

    name: str
    config: Mapping[str, Any]
    card: Mapping[str, Any] | None
    progress: Sequence[tuple[int, float]]
    metrics: Sequence[Mapping[str, Any]]
    samples: Sequence[Picture]
    attention: Sequence[Picture]


def read_run(folder: Path) -> RunFiles:
    """Read the public files of the run in `folder`.

    Raises:
        BadInput: `folder` is no run folder, or one of its files is not what its name says, or the card claims less
            than the ledger; the message names the file.
        DamagedFile: a file is not what was written.
    """
    export = folder / "export"
    from sfumato.report.claim import card_of  # imports the accountants, which --help need not wait for

    if not folder.is_dir():
        raise BadInput(f"{folder} is not a folder: give the folder of a run, such as runs/x.")
    if not export.is_dir() and not (folder / "run.json").is_file():
        raise BadInput(f"{folder} is not the folder of a run: it has neither run.json nor export/.")
    if not checksums.check(export):
        log.warning(checksums.UNCHECKED, export)
    config = _json(folder / "run.json", {})
    if not isinstance(config, dict):
        raise BadInput(f"{folder / 'run.json'} must hold a JSON object.")
    return RunFiles(
        name=folder.resolve().name,
        config=config,
        card=card_of(folder),
        progress=_progress(export / "progress.jsonl"),
        metrics=[*_figures(export / "metrics.json"), *_course(export / "course.jsonl")],
        samples=_pictures(export / "samples.json", "image_png_base64"),
        attention=_pictures(export / "attention.json", "image_png_base64", overlay="overlay_png_base64"),
    )


def _json(path: Path, missing: Any) -> Any:
    if not path.is_file():
        return missing
    try:
        return parsed(path.read_bytes())
    except ValueError as error:
        raise BadInput(f"{path} is not JSON: {error}. Remove it, and run the command that writes it again.") from error


def _progress(path: Path) -> list[tuple[int, float]]:
    """Return (step, epsilon) per line; of a step written twice (a replay) the last."""
    found = {entry["step"]: entry.get("epsilon") for entry in _lines(path)}
    return sorted((step, float(epsilon)) for step, epsilon in found.items() if can_be_drawn(epsilon))


def _figures(path: Path) -> list[dict[str, Any]]:
    with _of_another_kind(path):
        rows = metric_rows(_json(path, []))
        chapters(rows)  # all that is made of them
    return rows


@contextmanager
def _of_another_kind(path: Path) -> Iterator[None]:
    """Name the file where a value of it is of a kind that nothing can be made of."""
    try:
        yield
    except BadInput:
        raise
    except (TypeError, ValueError, LookupError, AttributeError, ArithmeticError) as error:
        raise BadInput(
            f"{path} holds figures of another kind than are written there ({type(error).__name__}). Remove it, and run "
            "the command that writes it again."
        ) from error


def _course(path: Path) -> list[dict[str, Any]]:
    """Return what was measured while the run trained; of a step measured twice the last."""
    found = {entry["step"]: entry for entry in _lines(path)}
    with _of_another_kind(path):
        rows = [found[step] for step in sorted(found)]
        chapters(rows)
    return rows


def _lines(path: Path) -> list[dict[str, Any]]:
    """Return the objects of a log, each with its step; a torn end is left out."""
    found: list[dict[str, Any]] = []
    for number, entry in enumerate(read_log(path), 1):
        step = None if entry is None else entry.get("step")
        if entry is None or not (isinstance(step, int) and can_be_drawn(step)):
            raise BadInput(f"{path}, line {number}: not a JSON object with a step. Take that line out.")
        found.append(entry)
    return found


def _pictures(path: Path, image: str, overlay: str | None = None) -> list[Picture]:
    entries = _json(path, [])
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise BadInput(f"{path} must hold a list of objects.")
    return [
        Picture(
            image=_png(entry.get(image), path, number),
            reference=str(entry.get("reference", "")),
            generated=str(entry.get("generated", entry.get("caption", ""))),
            overlay=None if overlay is None else _png(entry.get(overlay), path, number),
        )
        for number, entry in enumerate(entries, 1)
    ]


def _png(text: Any, path: Path, number: int) -> str:
    """Return base64 text that is certainly a PNG and certainly base64, so that it can stand in an attribute."""
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, TypeError, ValueError) as error:
        raise BadInput(f"{path}, entry {number}: the picture is not base64.") from error
    if not raw.startswith(_PNG):
        raise BadInput(f"{path}, entry {number}: the picture is not a PNG.")
    return base64.b64encode(raw).decode("ascii")


def metric_rows(metrics: Any) -> list[dict[str, Any]]:
    """Return measurements as flat rows: evaluations, a list of rows, an object with "rows", or nested numbers.

    >>> metric_rows({"probe": {"pixels": {"accuracy": 0.842, "n": 10}, "HOG": 0.89}, "steps": 400})
    ... # doctest: +NORMALIZE_WHITESPACE
    [{'metric': 'probe', 'features': 'pixels', 'value': 0.842, 'n': 10},
     {'metric': 'probe', 'features': 'HOG', 'value': 0.89},
     {'metric': 'steps', 'value': 400}]
    """
    if found := evaluations(metrics):
        return [row for evaluation in found for row in suite_rows(evaluation)]
    if isinstance(metrics, dict) and isinstance(metrics.get("rows"), list):
        metrics = metrics["rows"]
    if isinstance(metrics, list):
        return [dict(row) for row in metrics if isinstance(row, dict)]
    return list(_flatten(metrics, ())) if isinstance(metrics, dict) else []


def _flatten(tree: Mapping[str, Any], path: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    for key, value in tree.items():
        here = (*path, str(key))
        names = {"metric": here[0]} | ({"features": " / ".join(here[1:])} if here[1:] else {})
        if isinstance(value, dict) and "accuracy" in value:
            rest = {name: number for name, number in value.items() if isinstance(number, int | float)}
            yield {**names, "value": rest.pop("accuracy", None), **rest}
        elif isinstance(value, dict):
            yield from _flatten(value, here)
        elif isinstance(value, int | float | str):
            yield {**names, "value": value}
