"""Checkpoints: every state comes back as it was, and one that was cut short is not there."""

import errno
import json
import shutil
from collections import OrderedDict

import pytest
import torch
from torch import nn

from sfumato.base import BadInput
from sfumato.base.checksums import DamagedFile
from sfumato.train import checkpoint, warmup_cosine
from sfumato.train.codec import decode, encode


def _equal(one, two) -> bool:
    if isinstance(one, torch.Tensor):
        return isinstance(two, torch.Tensor) and one.dtype == two.dtype and torch.equal(one, two)
    if isinstance(one, dict):
        return isinstance(two, dict) and list(one) == list(two) and all(_equal(one[k], two[k]) for k in one)
    if isinstance(one, list | tuple):
        return type(one) is type(two) and len(one) == len(two) and all(map(_equal, one, two))
    return type(one) is type(two) and one == two


NESTED = {
    "tensors": [torch.arange(3), torch.tensor(2.5, dtype=torch.bfloat16), torch.zeros(0, 4), torch.ones(2).bool()],
    "transposed": torch.arange(6.0).view(2, 3).T,
    "numbers": (1, 2.5, True, None, float("inf"), 1e-300, 0.1 + 0.2),
    3: {"nested": {0: "text", "0": (), "tensor": []}},
}


def test_nested_state_comes_back(tmp_path):
    path = checkpoint.write(tmp_path, 3, NESTED, keep_last=1)
    assert path.name == "step-00000003"
    assert _equal(checkpoint.read(path), NESTED)


def test_shared_tensors_come_back_equal(tmp_path):
    shared = torch.arange(4.0)
    state = checkpoint.read(checkpoint.write(tmp_path, 0, {"a": shared, "b": shared[1:]}, keep_last=1))
    assert torch.equal(state["b"], shared[1:])


def test_what_json_cannot_keep_is_refused_by_name(tmp_path):
    with pytest.raises(BadInput, match="state/optimizer/x holds a set"):
        checkpoint.write(tmp_path, 0, {"optimizer": {"x": {1}}}, keep_last=1)
    with pytest.raises(BadInput, match="key of type tuple"):
        encode({(1, 2): 3}, "state", {})
    assert checkpoint.complete(tmp_path) == []


@pytest.mark.parametrize(
    "make",
    [
        lambda p: torch.optim.AdamW(p, lr=0.01, betas=(0.9, 0.95)),
        lambda p: torch.optim.Adam(p, lr=0.01, amsgrad=True),
        lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9),
        lambda p: torch.optim.SGD(p, lr=0.01),
        lambda p: torch.optim.Adagrad(p, lr=0.01),
    ],
    ids=["adamw", "amsgrad", "momentum", "sgd", "adagrad"],
)
@pytest.mark.parametrize("schedule", ["cosine", "multistep", "sequential"])
def test_optimizers_and_schedules_go_on_bit_for_bit(tmp_path, make, schedule):
    def build():
        torch.manual_seed(0)
        model = nn.Linear(3, 2)
        optimizer = make([{"params": [model.weight]}, {"params": [model.bias], "weight_decay": 0.1}])
        lr = torch.optim.lr_scheduler
        scheduler = {
            "cosine": lambda: warmup_cosine(optimizer, warmup_steps=2, total_steps=6),
            "multistep": lambda: lr.MultiStepLR(optimizer, [1, 1, 4]),
            "sequential": lambda: lr.SequentialLR(
                optimizer, [lr.ConstantLR(optimizer, 0.1), lr.CosineAnnealingLR(optimizer, 3)], [2]
            ),
        }[schedule]()
        return model, optimizer, scheduler

    def run(model, optimizer, scheduler, steps):
        for step in steps:
            for p in model.parameters():
                p.grad = torch.full_like(p, 0.1 * step + 0.3)
            optimizer.step()
            scheduler.step()

    whole, cut, resumed = build(), build(), build()
    run(*whole, range(6))
    run(*cut, range(3))
    state = {name: part.state_dict() for name, part in zip(("m", "o", "s"), cut, strict=True)}
    state = checkpoint.read(checkpoint.write(tmp_path, 3, state, keep_last=1))
    for name, part in zip(("m", "o", "s"), resumed, strict=True):
        part.load_state_dict(state[name])
    run(*resumed, range(3, 6))
    assert torch.equal(whole[0].weight, resumed[0].weight)
    assert torch.equal(whole[0].bias, resumed[0].bias)


def test_ordered_dicts_come_back_as_dicts():
    tensors: dict = {}
    assert decode(encode(OrderedDict(b=1, a=2), "s", tensors), tensors) == {"b": 1, "a": 2}


def test_the_last_ones_are_kept(tmp_path):
    for step in (5, 10, 100, 1000):
        checkpoint.write(tmp_path, step, {"step": step}, keep_last=2)
    assert [checkpoint.read(path)["step"] for path in checkpoint.complete(tmp_path)] == [100, 1000]


def test_the_same_step_again_is_newer(tmp_path):
    for number in range(4):
        checkpoint.write(tmp_path, 5, {"number": number}, keep_last=2)
    assert [checkpoint.read(path)["number"] for path in checkpoint.complete(tmp_path)] == [2, 3]


def test_a_half_written_one_is_not_there(tmp_path, monkeypatch):
    checkpoint.write(tmp_path, 1, NESTED, keep_last=2)
    monkeypatch.setattr(checkpoint, "sync_folder", lambda folder: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        checkpoint.write(tmp_path, 2, NESTED, keep_last=1)
    monkeypatch.undo()
    assert [path.name for path in checkpoint.complete(tmp_path)] == ["step-00000001"]
    checkpoint.write(tmp_path, 2, NESTED, keep_last=2)
    assert not list(tmp_path.glob(".draft*"))


@pytest.mark.parametrize("damage", ["tensors", "json", "missing"])
def test_a_damaged_one_is_named(tmp_path, damage):
    path = checkpoint.write(tmp_path, 1, NESTED, keep_last=2)
    if damage == "tensors":
        (path / "tensors.safetensors").write_bytes(b"\x10")
    elif damage == "json":
        (path / "state.json").write_text("{")
    else:
        shutil.rmtree(path)
    with pytest.raises(BadInput, match="step-00000001 is not a whole checkpoint"):
        checkpoint.read(path)


def test_no_pickle_in_a_checkpoint(tmp_path):
    path = checkpoint.write(tmp_path, 1, NESTED, keep_last=2)
    assert sorted(p.name for p in path.iterdir()) == ["state.json", "tensors.safetensors"]
    json.loads((path / "state.json").read_text())


def _flipped(path, place):
    raw = bytearray(path.read_bytes())
    raw[place] ^= 1
    path.write_bytes(raw)


@pytest.mark.parametrize(("name", "place"), [("tensors.safetensors", -1), ("tensors.safetensors", -40)])
def test_a_flipped_bit_of_a_tensor_is_found(tmp_path, name, place):
    path = checkpoint.write(tmp_path, 1, NESTED, keep_last=2)
    _flipped(path / name, place)
    with pytest.raises(DamagedFile, match=f"step-00000001 is not a whole checkpoint: {name} was changed"):
        checkpoint.read(path)


def test_a_flipped_digit_of_the_state_is_found(tmp_path):
    path = checkpoint.write(tmp_path, 1, {"step": 120, "lr": 0.25}, keep_last=2)
    text = (path / "state.json").read_text()
    (path / "state.json").write_text(text.replace("120", "121"))
    with pytest.raises(DamagedFile, match=r"state\.json was changed"):
        checkpoint.read(path)


def test_the_newest_whole_one_is_taken(tmp_path, caplog):
    for step in (1, 2, 3):
        checkpoint.write(tmp_path, step, NESTED, keep_last=3)
    assert checkpoint.latest(tmp_path) == "step-00000003"
    _flipped(tmp_path / "step-00000003/tensors.safetensors", -1)
    (tmp_path / "step-00000002/state.json").write_text("{")
    assert checkpoint.latest(tmp_path) == "step-00000001"
    assert "step-00000003" in caplog.text
    assert "step-00000002" in caplog.text
    shutil.rmtree(tmp_path / "step-00000001")
    with pytest.raises(BadInput, match=r"no checkpoint .* is whole.*charges none of them twice"):
        checkpoint.latest(tmp_path)
    assert checkpoint.latest(tmp_path / "none") is None


def test_one_of_an_earlier_version_is_read_unchecked(tmp_path, caplog):
    path = checkpoint.write(tmp_path, 1, NESTED, keep_last=2)
    content = json.loads((path / "state.json").read_text())
    (path / "state.json").write_text(json.dumps(content["state"]))
    assert _equal(checkpoint.read(path), NESTED)
    assert "unchecked" in caplog.text


def test_a_full_disk_leaves_the_former_one(tmp_path, monkeypatch):
    checkpoint.write(tmp_path, 1, NESTED, keep_last=1)
    full = OSError(errno.ENOSPC, "No space left on device")
    for name in ("save_file", "write_file"):
        with monkeypatch.context() as patch:
            patch.setattr(checkpoint, name, lambda *_: (_ for _ in ()).throw(full))
            with pytest.raises(BadInput, match=r"step-00000002 could not be written \(No space left.*same command"):
                checkpoint.write(tmp_path, 2, NESTED, keep_last=1)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]
