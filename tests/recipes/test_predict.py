"""Predictions keep of each picture what the model sees, and no more."""

import weakref
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sfumato import data
from sfumato.base import BadInput
from sfumato.recipes import predict as module
from sfumato.recipes.config import write_config
from sfumato.recipes.run import Data, Run


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(5):
        Image.new("RGB", (2600, 2000), (number, 0, 0)).save(folder / f"{number}.png", compress_level=1)
    (folder / "3.png").write_bytes(b"no picture")
    return folder


def stand_in(monkeypatch: pytest.MonkeyPatch, answers: object) -> None:
    monkeypatch.setattr(module, "_answers", lambda *args: answers)


def test_one_decoded_picture_is_in_memory_at_a_time(pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """32 of 8191 x 8191, 282 kB each, took 4.1 GB."""
    alive: list[weakref.ref[np.ndarray]] = []
    sizes: list[int] = []

    def prepare(picture: np.ndarray) -> torch.Tensor:
        assert [one for one in alive if one() is not None] == []
        alive.append(weakref.ref(picture))
        sizes.append(picture.size)
        return torch.tensor([float(picture[0, 0, 0])])

    stand_in(monkeypatch, module._Answers(prepare=prepare, answer=lambda kept: [str(int(x)) for x in kept], side=50))
    found = [(path.name, text, error is None) for path, text, error in module.predict(pictures, [pictures])]
    assert found == [
        ("0.png", "0", True),
        ("1.png", "1", True),
        ("2.png", "2", True),
        ("3.png", None, False),
        ("4.png", "4", True),
    ]
    assert max(sizes) < 3 * 4 * 100 * 130  # reduced to about twice the side while they are read


def test_large_pictures_that_a_family_resizes_are_answered_by_themselves(
    pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches: list[int] = []

    def answer(kept: list[np.ndarray]) -> list[str | None]:
        batches.append(len(kept))
        assert {picture.shape for picture in kept} == {(2000, 2600, 3)}
        return [None] * len(kept)

    monkeypatch.setattr(module, "_HELD", 20_000_000)  # one has 15.6 million numbers
    stand_in(monkeypatch, module._Answers(prepare=data.eight_bit_rgb, answer=answer))
    found = list(module.predict(pictures, [pictures]))
    assert batches == [2, 2]
    assert [error for _, _, error in found].count(module._UNFED) == 4


def test_the_limit_is_that_of_the_run_unless_another_is_given(
    tmp_path: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(recipe="dp-cap", out=tmp_path / "run", data=Data(spec="x", max_pixels=1000, window=(0, 9)))
    run.out.mkdir()
    write_config(run)
    assert module._decoder(run.out, None, None) == data.Decoder(max_pixels=1000, window=(0, 9))
    assert module._decoder(run.out, (1, 2), 2000) == data.Decoder(max_pixels=2000, window=(1, 2))
    assert module._decoder(tmp_path, None, None) == data.Decoder()
    with pytest.raises(BadInput, match="--max-pixels"):
        module._decoder(tmp_path, None, -1)
    stand_in(monkeypatch, replace(module._Answers(prepare=torch.from_numpy, answer=lambda kept: ["x"] * len(kept))))
    errors = {path.name: error for path, _, error in module.predict(run.out, [pictures])}
    assert "larger than the public limit max_pixels (1,000); --max-pixels sets it" in str(errors["0.png"])
    assert "not a known format" in str(errors["3.png"])


def test_what_a_folder_holds_besides_is_named(
    pictures: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    stand_in(monkeypatch, module._Answers(prepare=torch.from_numpy, answer=lambda kept: ["x"] * len(kept), side=9))
    (pictures / "x.jxl").write_bytes(b"\xff\x0a")
    (pictures / "y.nii").write_bytes(b"?")
    assert len(list(module.predict(pictures, [pictures]))) == 5
    assert "left out 2 that are not read as pictures: .nii (1), JPEG XL (1; pip install" in caplog.text
