"""Starts from files and classes that do not suit: one sentence that names the model, without unsafe advice."""

import gc
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from sfumato.base import BadInput, Refused
from sfumato.models.foreign import names_the_model
from sfumato.models.open_clip_door import _load, open_clip_module


def _clip(width: int, layers: int = 1) -> Any:
    sight = {"image_size": 32, "layers": layers, "width": width, "head_width": 16, "patch_size": 16}
    words = {"context_length": 8, "vocab_size": 32, "width": width, "heads": 2, "layers": layers}
    return open_clip_module().CLIP(embed_dim=16, vision_cfg=sight, text_cfg=words)


class Payload:
    """What a pickle may hold besides tensors."""

    def __reduce__(self) -> Any:
        return print, ("ran",)


def _weights(path: Path, kind: str) -> Path:
    if kind == "other architecture":
        torch.save(_clip(64, 2).state_dict(), path)
    elif kind == "other model":
        torch.save(torch.nn.Linear(2, 2).state_dict(), path)
    elif kind == "pickle":
        path.write_bytes(pickle.dumps(Payload()))
    elif kind == "torch pickle":
        torch.save({"state_dict": Payload()}, path)
    else:
        path.write_bytes({"binary": bytes(range(256)), "empty": b""}[kind])
    return path


@pytest.mark.every(3)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # open_clip leaves the file open
@pytest.mark.parametrize("ending", [".bin", ".safetensors", ".npz"])
@pytest.mark.parametrize("kind", ["other architecture", "other model", "pickle", "torch pickle", "binary", "empty"])
def test_weights_that_do_not_fit_are_named(
    kind: str, ending: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = _weights(tmp_path / f"weights{ending}", kind)
    with pytest.raises(BadInput, match=rf"weights\{ending} do not fit: .") as told:
        _load(_clip(32), file)
    assert len(str(told.value)) < 700
    assert not any(word in str(told.value) for word in ("weights_only", "trust_remote_code", "\n"))
    assert "ran" not in capsys.readouterr().out
    if "pickle" in kind and ending == ".bin":
        assert "safetensors" in str(told.value)
    del told
    gc.collect()


@pytest.mark.parametrize(
    "error", [RuntimeError("shape '[8]' is invalid"), AssertionError(), KeyError("x"), IndexError()]
)
def test_whatever_a_model_raises_names_it(error: Exception) -> None:
    @names_the_model
    def start(*, init: str) -> None:
        raise error

    with pytest.raises(BadInput, match=f"runs/x cannot be made and run .*{type(error).__name__}"):
        start(init="runs/x")


@pytest.mark.parametrize("error", [BadInput("a"), Refused("b"), MemoryError(), ModuleNotFoundError("timm")])
def test_what_is_a_sentence_already_stays(error: Exception) -> None:
    @names_the_model
    def start(folder: str) -> None:
        raise error

    with pytest.raises(type(error)) as told:
        start("runs/x")
    assert told.value is error
