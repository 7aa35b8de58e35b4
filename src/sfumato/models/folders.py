"""Local checkpoint folders: where they are, what they lack, and transformers' readers without their chatter."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers.utils import logging as transformers_logging

from sfumato.base import BadInput
from sfumato.base.texts import read_object

_WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)


@contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers' progress bars and reports off the screen inside the `with`: what matters raises instead."""
    bars = transformers_logging.is_progress_bar_enabled()
    level = transformers_logging.get_verbosity()
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)
        if bars:
            transformers_logging.enable_progress_bar()


def locate(folder: str | Path) -> Path:
    """Return the checkpoint folder meant by `folder`: itself, or the `export/` of a run of sfumato."""
    path = Path(folder)
    if not path.is_dir():
        raise BadInput(f"there is no checkpoint folder {path}.")
    export = path / "export"
    if _holds_model(path):
        return path
    if any((p / "adapter_config.json").is_file() for p in (path, export)):
        raise BadInput(
            f"{path} holds an adapter alone, no model: start from the checkpoint under it, or merge the two with peft."
        )
    if export.is_dir() or (path / "run.json").is_file():
        if not _holds_model(export):
            raise BadInput(f"{path} is a run without an export: {export / 'config.json'} is missing.")
        return export
    return path


def _holds_model(folder: Path) -> bool:
    """Whether a folder describes a model of transformers, or of open_clip (a CoCa)."""
    return any((folder / name).is_file() for name in ("config.json", "open_clip_config.json"))


def read_json(file: Path) -> dict[str, Any]:
    """Read a JSON object; BadInput names the file if it is missing or broken."""
    if not file.is_file():
        raise BadInput(f"{file.parent} is not a transformers checkpoint: {file.name} is missing.")
    return read_object(file, "a checkpoint")


def require_weights(folder: Path) -> None:
    """Raise BadInput unless `folder` has a weights file that transformers reads."""
    if not any((folder / name).is_file() for name in _WEIGHTS):
        raise BadInput(f"{folder} has a configuration but no weights: model.safetensors is missing.")
