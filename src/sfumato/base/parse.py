"""The one reader of JSON that lies in a folder: whatever a file holds, it is a value or a `ValueError`."""

import json
from typing import Any

_DEPTH = 200  # of objects and lists in one another; the state of an optimizer has a tenth of that
_DIGITS = 300  # of a whole number: more of them make no float


def parsed(text: str | bytes) -> Any:
    """Return the value of a JSON text.

    Raises:
        ValueError: it is no JSON, not in a Unicode encoding, nested too deep to be walked through, or has a whole
            number that no float is near to.

    >>> parsed(b'{"a": [1, 2.5]}')
    {'a': [1, 2.5]}
    """
    try:
        value = json.loads(text, parse_int=_whole)
    except RecursionError:
        raise ValueError("nested too deep") from None
    _check_depth(value)
    return value


def _whole(digits: str) -> int:
    if len(digits) > _DIGITS:
        raise ValueError("a whole number with too many digits")
    return int(digits)


def _check_depth(value: Any) -> None:
    level = [value]
    for _ in range(_DEPTH):
        lists = [entry for entry in level if isinstance(entry, list)]
        objects = [entry.values() for entry in level if isinstance(entry, dict)]
        level = [one for inside in (*lists, *objects) for one in inside if isinstance(one, list | dict)]
        if not level:
            return
    raise ValueError("nested too deep")
