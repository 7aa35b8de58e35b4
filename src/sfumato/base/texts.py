"""Reading text and JSON files that a user names: what is wrong with one is said in a sentence that names it."""

import json
from pathlib import Path
from typing import Any

from sfumato.base.errors import BadInput
from sfumato.base.parse import parsed


def read_text(path: Path, what: str) -> str:
    """Return the text of a file in UTF-8.

    Args:
        path: of the file.
        what: the flag or the kind of file, for messages.

    Raises:
        BadInput: there is no such regular file, it cannot be opened, or it is not text.
    """
    if not path.is_file():
        found = "a folder" if path.is_dir() else "not a regular file" if path.exists() else None
        raise BadInput(f"{what}: {path} is {found}." if found else f"{what}: there is no file {path}.")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise BadInput(f"{what}: {path} is not text in UTF-8: save it as UTF-8.") from None
    except OSError as error:
        raise BadInput(f"{what}: {path} cannot be read: {error.strerror or 'unknown error'}.") from None
    if "\0" in text:
        raise BadInput(f"{what}: {path} is not a text file.")
    return text


def read_object(path: Path, what: str) -> dict[str, Any]:
    """Return the JSON object that a file holds; arguments and errors as `read_text`, and BadInput for other content."""
    try:
        content = parsed(read_text(path, what))
    except ValueError as error:
        if isinstance(error, BadInput):
            raise
        where = f" (line {error.lineno})" if isinstance(error, json.JSONDecodeError) else ""
        raise BadInput(f"{what}: {path} is not valid JSON{where}.") from None
    if not isinstance(content, dict):
        raise BadInput(f"{what}: {path} holds no JSON object.")
    return content
