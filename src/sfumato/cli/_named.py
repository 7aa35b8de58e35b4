"""Settings in a message of the library, named as one types them."""

import re
from collections.abc import Sequence
from dataclasses import fields, is_dataclass

from sfumato.base.errors import BadInput
from sfumato.base.ranges import flag

_AS = {"num_records": "records", "expected_batch_size": "batch_size"}  # the library's name -> that of some flags


def as_flags(message: str, command: object) -> str:
    """Return a message in which a setting of the command that stands by itself, before its value, is its flag.

    What is part of a path, of a call or of another name stays as it is.

    >>> from dataclasses import make_dataclass
    >>> command = make_dataclass("Command", ["expected_batch_size", "records"])(None, None)
    >>> as_flags("expected_batch_size 400.0 exceeds num_records 12.", command)
    '--expected-batch-size 400.0 exceeds --records 12.'
    """
    if not is_dataclass(command):
        return message
    known = {field.name for field in fields(command)}
    names = {said: own for said, own in _AS.items() if own in known} | {name: name for name in known if "_" in name}
    if not names:
        return message
    pattern = rf"(?<![\w./\\'\"`=-])({'|'.join(sorted(names, key=len, reverse=True))})(?![\w./\\'\"`=(:-])"
    return re.sub(pattern, lambda found: flag(names[found[1]]), message)


def check_named(arguments: Sequence[str]) -> None:
    """Refuse an argument of nothing or of blanks: no flag takes one, and as a path it is the current folder.

    Raises:
        BadInput: naming the flag that stands before it.
    """
    for before, given in zip(("", *arguments), arguments):
        name, is_set, value = given.partition("=")
        if not given.strip() or (name.startswith("--") and is_set and not value.strip()):
            which = name if is_set else before if before.startswith("--") else "an argument"
            raise BadInput(
                f"{which} is empty: give a value, or leave it out (a variable of the shell that is not set is empty)."
            )
