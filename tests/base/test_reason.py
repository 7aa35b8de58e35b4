"""What other libraries say, cut and cleaned: their advice to run foreign code is never passed on."""

import pickle

import pytest

from sfumato.base.reason import CODE, PICKLE, named, reason


def test_a_long_message_is_one_line_and_cut() -> None:
    told = reason(ValueError("first\n  second " + "x" * 500), 40)
    assert told.startswith("first second x")
    assert len(told) <= 43
    assert "\n" not in told


@pytest.mark.parametrize(
    "error",
    [
        pickle.UnpicklingError("invalid load key, 'x'."),
        RuntimeError("Weights only load failed. In PyTorch 2.6 the default changed: set `weights_only=False` if ..."),
        RuntimeError("Unsupported operand 149 WeightsUnpickler error"),
    ],
)
def test_a_pickle_is_named_and_its_conversion(error: Exception) -> None:
    assert reason(error) == PICKLE
    assert "weights_only" not in reason(error)
    assert "safetensors" in reason(error)


def test_code_of_a_folder_is_never_advised() -> None:
    advice = "The repository contains custom code. Please pass the argument `trust_remote_code=True` to allow it."
    assert reason(ValueError(advice)) == CODE
    outer = RuntimeError("could not be loaded")
    outer.__cause__ = ValueError(advice)
    assert reason(outer) == CODE
    assert "trust_remote_code" not in reason(outer)


def test_a_folder_called_pickles_is_no_pickle() -> None:
    assert reason(OSError("no file named model.safetensors in runs/pickles")) != PICKLE


def test_an_error_without_words_is_named_by_its_type() -> None:
    assert (reason(KeyError()), named(KeyError()), named(KeyError("x"))) == ("KeyError", "KeyError", "KeyError: 'x'")
