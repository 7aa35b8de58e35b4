"""The command `sfumato`: one module per command, found by its name and imported only when it is asked for.

`sfumato plan` lives in `sfumato/cli/plan.py` as `PlanCommand`, a frozen dataclass whose fields are the flags, with
`run(command) -> int` and the text `EXAMPLES`. The frame turns every error into one sentence and an exit status.
"""

import difflib
import errno
import importlib
import logging
import os
import sys
import textwrap
import traceback
from collections.abc import Sequence
from types import ModuleType

from sfumato import __version__
from sfumato.base import BadInput, Refused, SfumatoError
from sfumato.base.ranges import check_ranges
from sfumato.cli import _signals
from sfumato.cli._named import as_flags, check_named
from sfumato.cli._screen import (
    OneLine,
    is_of_stdout,
    let_go_of_stdout,
    open_closed,
    spelled_where_unseen,
    take_any_text,
    wide_enough,
    write_line,
)

COMMANDS = {
    "plan": "What a training run will cost: epsilon, noise, signal; touches no data",
    "doctor": "Whether a model can be trained, at what cost; touches no private rows",
    "train": "Train under the plan's guarantee; the same command again resumes",
    "finetune": "A linear classifier on a run's frozen features, private or not",
    "evaluate": "Measure what a run learned, beside its baselines",
    "report": "Write one self-contained HTML page of a run",
    "export": "Hand a run's model on: transformers format, whole or the encoder",
    "predict": "Caption, match or classify new pictures with a run's model",
    "study": "Repeat a paper's experiment and plot it",
    "simulate": "What privacy costs a linear encoder: predicted, simulated, plotted",
    "demo": "All of it on built-in data: train, evaluate, report",
}
EXAMPLES = """
sfumato plan dp-cap --records 200000
sfumato train dp-cap --data images/ --captions reports.csv --owner-column patient --epsilon 8
sfumato evaluate runs/x --suite probe,fewshot,zeroshot
sfumato report runs/x
"""
_OK, _CRASHED, _WRONG_USE = 0, 1, 2
_ROOM = "Make room, and run the same command again."
_WAYS_OUT = {
    errno.ENOSPC: _ROOM,
    errno.EDQUOT: _ROOM,
    errno.EFBIG: "Raise the limit on the size of files (ulimit -f), and run the same command again.",
    errno.EISDIR: "Move that folder away, and run the same command again.",
    errno.ENOTEMPTY: "Move that folder away, and run the same command again.",
    errno.ENOTDIR: "Name a place whose folders are folders.",
    errno.EROFS: "Its disk takes no writes: name a place on another one, or mount it for writing.",
    errno.EACCES: "Change its permissions or owner, or name another place.",
    errno.EPERM: "Change its permissions, attributes or owner, or name another place.",
}
_EXTRA_OF = {"sklearn": "eval", "skimage": "eval", "pydicom": "dicom", "datasets": "hf", "accelerate": "hf"}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (default: that of the process) and return its exit status.

    0 done; 1 the program failed; 2 wrong use or refused; 130 interrupted, 143 and 129 ended by SIGTERM and SIGHUP.
    SFUMATO_DEBUG=1 shows tracebacks.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    open_closed()
    _log_to_stderr()
    take_any_text()
    try:
        with _signals.as_interrupts():
            status = _dispatch(arguments)
            sys.stdout.flush()  # whatever stands in its way is told here, and not when Python ends
            return status
    except SystemExit as error:  # how tyro leaves after --help and after a wrong flag
        return error.code if isinstance(error.code, int) else _OK if error.code is None else _WRONG_USE
    except KeyboardInterrupt as error:
        status = _tell(*_signals.explained(error, arguments))
        _signals.let_go(error)
        return status
    except BrokenPipeError:  # `sfumato plan ... | head`
        let_go_of_stdout()
        return _OK
    except Exception as error:
        return _tell(*_explain(error))


def _dispatch(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        sys.stdout.write(_help())
        return _OK if arguments else _WRONG_USE
    name, rest = arguments[0], arguments[1:]
    if name == "--version":
        sys.stdout.write(f"sfumato {__version__}\n")
        return _OK
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        return _tell(f"There is no command {name!r}.{hint} One of: {', '.join(COMMANDS)}.", _WRONG_USE)
    check_named(rest)
    module = _load(name)
    if module is None:
        return _tell(_not_here(f"The command {name!r}"), _WRONG_USE)
    command = _parse(name, module, rest)
    try:
        check_ranges(command)
        return module.run(command)
    except (BadInput, Refused) as error:
        return _tell(as_flags(str(error), command), _WRONG_USE)


def _load(name: str) -> ModuleType | None:
    path = f"sfumato.cli.{name}"
    try:
        return importlib.import_module(path)
    except ModuleNotFoundError as error:
        if error.name == path:
            return None
        raise


def _parse(name: str, module: ModuleType, rest: list[str]) -> object:
    import tyro

    command = getattr(module, f"{name.capitalize()}Command")
    try:
        with wide_enough(), spelled_where_unseen(rest):
            if hasattr(module, "parse"):  # its flags depend on the first argument
                return module.parse(rest)
            return tyro.cli(command, prog=f"sfumato {name}", args=rest, config=(tyro.conf.DisallowNone,))
    except SystemExit as error:
        if error.code in (None, 0):
            sys.stdout.write(_examples(module.EXAMPLES))
        raise


def _help() -> str:
    width = max(map(len, COMMANDS))
    commands = "\n".join(f"  {name:<{width}}  {line}" for name, line in COMMANDS.items())
    return (
        "usage: sfumato COMMAND [flags]\n\n"
        "Train vision-language models on sensitive image-text data with provable differential privacy.\n\n"
        f"commands:\n{commands}\n\n"
        "  sfumato COMMAND --help   the flags of a command, with examples\n"
        "  sfumato --version        the version\n"
        f"{_examples(EXAMPLES)}"
    )


def _examples(text: str) -> str:
    return f"\nexamples:\n{textwrap.indent(textwrap.dedent(text).strip(), '  ')}\n"


def _explain(error: Exception) -> tuple[str, int]:
    """Return one sentence for the user and the exit status. Of an unforeseen error only its type is named: its message
    may hold a value of a private record."""
    if isinstance(error, SfumatoError):
        return str(error), _WRONG_USE
    if isinstance(error, ModuleNotFoundError) and error.name:
        package = error.name.split(".")[0]
        if package == "sfumato":
            return _not_here(f"The module {error.name}"), _WRONG_USE
        extra = _EXTRA_OF.get(package)
        how = f": pip install 'sfumato[{extra}]'" if extra else ""
        return f"This needs the Python package {package!r}, which is not installed{how}.", _WRONG_USE
    if isinstance(error, MemoryError) or "out of memory" in str(error).lower() or "allocate memory" in str(error):
        return (
            "This needs more memory than there is: choose a smaller --micro-batch-size, --image-size or --max-tokens.",
            _CRASHED,
        )
    if isinstance(error, OSError) and error.strerror:
        name = error.filename
        if name is None and is_of_stdout(error):
            let_go_of_stdout()
            name = "The standard output"
        way_out = _WAYS_OUT.get(error.errno or 0, "")
        return f"{'' if name is None else f'{name}: '}{error.strerror}. {way_out}", _WRONG_USE
    return (
        f"Stopped by an unexpected {type(error).__name__}. Its message may hold private data, so it is not shown here; "
        "SFUMATO_DEBUG=1 before the command shows it with its traceback.",
        _CRASHED,
    )


def _not_here(what: str) -> str:
    return f"{what} is not part of this installation of sfumato {__version__}."


def _tell(message: str, status: int) -> int:
    if os.environ.get("SFUMATO_DEBUG", "0") not in ("", "0") and sys.exc_info()[0] is not None:
        traceback.print_exc()
    write_line(f"sfumato: {' '.join(message.split())}", error=True)
    return status


def _log_to_stderr() -> None:
    """Show what the package logs as plain lines; other libraries keep to their warnings."""
    logger = logging.getLogger("sfumato")
    if not logger.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(OneLine("%(message)s"))
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
    for handler in logger.handlers:
        if isinstance(handler, logging.StreamHandler) and isinstance(handler.formatter, OneLine):
            handler.stream = sys.stderr  # that of this call: one process may make several
