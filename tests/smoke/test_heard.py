"""No call of ours makes a library below warn, or log, that something goes out of use."""

import logging
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from tests.smoke.heard import Listener, listen

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_nothing_that_goes_out_of_use_is_called(tmp_path: Path) -> None:
    strict = ("-W", "error::DeprecationWarning", "-W", "error::FutureWarning")
    command = [sys.executable, *strict, "-m", "tests.smoke.heard", str(tmp_path)]
    env = {**os.environ, "SFUMATO_DEBUG": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, cwd=ROOT, env=env)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "OUT OF USE" not in done.stdout, done.stdout[-3000:]


def test_the_listener_hears_both_ways(monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers.utils import logging as transformers_logging

    from sfumato.models.folders import quiet

    before = transformers_logging.get_verbosity()
    monkeypatch.setattr(transformers_logging, "set_verbosity_error", transformers_logging.set_verbosity_error)
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    listener: Listener = listen()
    try:
        with quiet():
            transformers_logging.get_logger("transformers.some.model").warning("`past` is deprecated")
            transformers_logging.get_logger("transformers.some.model").warning("weights were made anew")
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.warn("`size` will be removed in version 9", UserWarning, stacklevel=1)
    finally:
        transformers_logging.set_verbosity(before)
        for logger in logging.Logger.manager.loggerDict.values():
            if isinstance(logger, logging.Logger):
                logger.removeHandler(listener)
    assert listener.found == [
        "transformers.some.model: `past` is deprecated",
        "UserWarning: `size` will be removed in version 9",
    ]
