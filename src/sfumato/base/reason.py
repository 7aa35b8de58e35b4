"""What another library says when it fails, cut to what a user of sfumato may follow."""

import re

_LENGTH = 200
_PICKLE = re.compile(r"weights[-_ ]only|weightsunpickler|unsupported (global|operand)|pickle data", re.IGNORECASE)
_CODE = re.compile(r"trust_remote_code|remote code|custom code|execute the .{0,40}(file|code)", re.IGNORECASE)

PICKLE = (
    "the file is a pickle that holds more than tensors, or is damaged: reading it could run code. Take the publisher's "
    ".safetensors file, or write the tensors with safetensors.torch.save_file on a machine that holds no private data"
)
CODE = (
    "the folder brings Python code of its own, which is never run. Take a model whose class is part of the library "
    "itself, or save this one in such a class on a machine that holds no private data"
)


def reason(error: BaseException, length: int = _LENGTH) -> str:
    """Return why a library failed: its message on one line, at most `length` characters, without a full stop.

    Where the library advises to read a file in a way that could run code in it, a sentence says instead what the file
    is and how to convert it: such advice is never passed on.

    >>> reason(ValueError("no such\\n   layer."))
    'no such layer'
    """
    texts = [" ".join(str(part).split()) for part in _chain(error)]
    if any(_CODE.search(text) for text in texts):
        return CODE
    if any(_PICKLE.search(text) for text in texts) or any(
        "Unpickling" in type(part).__name__ for part in _chain(error)
    ):
        return PICKLE
    text = texts[0] or type(error).__name__
    return (text if len(text) <= length else f"{text[:length]}...").rstrip(". ") if text else text


def named(error: BaseException, length: int = _LENGTH) -> str:
    """Return the error's type, and `reason` where it says more.

    >>> named(KeyError()), named(ValueError("too long"))
    ('KeyError', 'ValueError: too long')
    """
    kind, why = type(error).__name__, reason(error, length)
    return kind if why == kind else f"{kind}: {why}"


def _chain(error: BaseException) -> list[BaseException]:
    """Return the error and what caused it."""
    found: list[BaseException] = []
    while error is not None and error not in found:
        found.append(error)
        error = error.__cause__ or error.__context__  # pyright: ignore[reportAssignmentType]
    return found
