"""Cells of a study that are kept: each is one JSON file with its settings, made again only where these change."""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import fields
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

from sfumato.base.files import write_whole
from sfumato.base.parse import parsed
from sfumato.recipes.run import PARTS, Run

T = TypeVar("T")
Cell = dict[str, Any]


def told(run: Run) -> Cell:
    """Return the settings of a run as they stand in a file; the batch size is one number."""
    settings = json.loads(json.dumps(run.to_json()))
    settings["privacy"].pop("usual_batch_size")
    settings["privacy"]["expected_batch_size"] = run.privacy.batch_size
    return settings


def keep(file: Path, settings: Cell, make: Callable[[], Cell]) -> Cell:
    """Return the cell that `file` holds with these settings, else make and keep it: whole or not at all.

    Args:
        file: of the cell.
        settings: JSON values; what they say of a run is as `told` says it.
        make: makes the cell; "settings" are added to it.
    """
    if is_kept(file, settings):
        return parsed(file.read_bytes())
    found = {**make(), "settings": settings}
    file.parent.mkdir(parents=True, exist_ok=True)
    write_whole(file, json.dumps(found, indent=1) + "\n")
    return found


def is_kept(file: Path, settings: Cell) -> bool:
    """Return whether `file` holds a cell with these settings."""
    if not file.is_file():
        return False
    try:
        kept = parsed(file.read_bytes())["settings"]
    except (ValueError, KeyError, TypeError):
        return False  # torn or damaged: it is made again
    return unusual(kept) == unusual(settings)


def unusual(settings: Cell) -> Cell:
    """Return settings without those at their default: a field that a later version adds makes no kept cell stale."""
    found = dict(settings)
    for part, kind in PARTS.items():
        usual = {f.name: f.default for f in fields(kind)}
        own = settings.get(part, {})
        found[part] = {name: value for name, value in own.items() if _plain(usual.get(name)) != value}
    return found


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def carried_out(
    work: Sequence[T],
    make: Callable[[T], Cell],
    *,
    jobs: int,
    begin: Callable[..., None] | None = None,
    shared: Iterable[Any] = (),
) -> Iterator[tuple[T, Cell]]:
    """Yield each piece of work with its cell as it is done, in this process or in `jobs` of one thread each.

    Args:
        make: a function of a module, so that other processes find it.
        begin: called in each of these processes at its start, with `shared`.
    """
    if jobs == 1:
        yield from ((piece, make(piece)) for piece in work)
        return
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn"), initializer=begin, initargs=tuple(shared)) as pool:
        running = {pool.submit(make, piece): piece for piece in work}
        try:
            yield from ((running[one], one.result()) for one in as_completed(running))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)  # what is done is kept
            raise
