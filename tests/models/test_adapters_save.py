"""Adapters in peft's format: plain peft on a fresh base gives the same bits, with sfumato not importable."""

import copy
import json
import os
import subprocess
import sys
from pathlib import Path

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.models.adapted import CASES, llama, moved, small

from sfumato.base import BadInput
from sfumato.models import Adapter, adapt, load_adapter, save_adapter
from sfumato.models.adapter_peft import base_state

SMALL = Adapter(rank=2)
WHOLE = Adapter(rank=2, targets="all-linear", modules_to_save=("lm_head",))
SAVED = {  # folder: case, train, settings
    "lora": ("llama, filled left", "lora", SMALL),
    "whole": ("llama, filled left", "lora", WHOLE),
    "dora": ("llama, filled left", "dora", SMALL),
    "conv1d": ("gpt2", "lora", SMALL),
    "half": ("llama, filled left", "lora", Adapter(rank=2, frozen_dtype="bfloat16")),
    "blip": ("blip", "lora", SMALL),
}

ELSEWHERE = """
import sys, torch, transformers, peft
sys.modules["sfumato"] = None
for folder in sys.argv[1:]:
    told = torch.load(f"{folder}/inputs.pt", weights_only=True)
    base = getattr(transformers, told["class"]).from_pretrained(f"{folder}/base", dtype=getattr(torch, told["dtype"]))
    model = peft.PeftModel.from_pretrained(base, f"{folder}/adapter").eval().get_base_model()
    with torch.no_grad():
        out = model(**told["batch"])
    torch.save({"out": out.logits if "logits" in out else out.last_hidden_state}, f"{folder}/out.pt")
assert not any(name.startswith("sfumato.") for name in sys.modules)
"""


def outside(script: str, *arguments: str) -> None:
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    env |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
    done = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr


def outputs(model, batch) -> torch.Tensor:
    with torch.no_grad():
        out = model.eval()(**batch)
    return out.logits if "logits" in out else out.last_hidden_state


def written(folder: Path, name: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Write base and adapter of a case; return the outputs with and without the adapter."""
    kind, train, settings = SAVED[name]
    case = CASES[kind]
    base = moved(case.make())
    base.save_pretrained(folder / "base")
    batch = case.rows(torch.bfloat16 if settings.frozen_dtype else torch.float32)
    if name == "blip":
        batch["labels"] = batch.pop("answer_ids")
        batch["decoder_input_ids"], batch["decoder_attention_mask"] = batch["labels"], batch.pop("answers")
    before = outputs(copy.deepcopy(base), batch)
    found = adapt(base, train, settings, base="someone/some-base")
    with torch.no_grad():
        for param in found.model.parameters():
            if param.requires_grad:
                param.add_(0.1)
    assert found.save is not None
    assert found.save(folder / "adapter") == folder / "adapter"
    dtype = settings.frozen_dtype or "float32"
    told = {"class": type(base).__name__, "batch": batch, "dtype": dtype}
    torch.save(told, folder / "inputs.pt")
    return outputs(found.model, batch), before


def test_plain_peft_gives_the_same_bits(tmp_path: Path) -> None:
    wanted = {name: written(tmp_path / name, name) for name in SAVED}
    outside(ELSEWHERE, *(str(tmp_path / name) for name in SAVED))
    for name, (with_adapter, without) in wanted.items():
        out = torch.load(tmp_path / name / "out.pt", weights_only=True)["out"]
        assert torch.equal(out, with_adapter), name
        assert not torch.equal(out, without.to(out.dtype)), name
        text = (tmp_path / name / "adapter" / "adapter_config.json").read_text()
        assert json.loads(text)["base_model_name_or_path"] == "someone/some-base"
        assert not any(path in text for path in (str(tmp_path), str(Path.cwd()), "sfumato", "site-packages"))
        assert sorted(os.listdir(tmp_path / name / "adapter")) == ["adapter_config.json", "adapter_model.safetensors"]


@pytest.mark.parametrize("train", ["lora", "dora"])
def test_read_back(train: str, tmp_path: Path) -> None:
    case, base = CASES["llama, filled right"], moved(llama())
    batch = case.rows()
    fresh = copy.deepcopy(base)
    found = adapt(base, train, small(train), base="base")
    with torch.no_grad():
        for param in found.model.parameters():
            if param.requires_grad:
                param.add_(0.1)
    assert found.save is not None
    found.save(tmp_path / "one")
    loaded = load_adapter(fresh, tmp_path / "one")
    assert torch.equal(outputs(loaded, batch), outputs(found.model, batch))
    save_adapter(loaded, tmp_path / "two")
    one, two = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("one", "two"))
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_the_base_under_an_adapter_is_unchanged() -> None:
    base = llama()
    before = copy.deepcopy(base.state_dict())
    adapt(base, "dora", WHOLE)
    found = base_state(base)
    assert found.keys() == before.keys()
    assert all(torch.equal(found[name], before[name]) for name in before)


def test_folders_that_hold_no_adapter(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"adapter_config\.json is missing"):
        load_adapter(llama(), tmp_path)
    found = adapt(llama(), "lora", SMALL)
    assert found.save is not None
    found.save(tmp_path / "a")
    with pytest.raises(BadInput, match="does not fit a GPT2LMHeadModel"):
        load_adapter(CASES["gpt2"].make(), tmp_path / "a")
    (tmp_path / "a" / "adapter_model.safetensors").unlink()
    with pytest.raises(BadInput, match=r"no weights: adapter_model\.safetensors is missing"):
        load_adapter(llama(), tmp_path / "a")
    with pytest.raises(BadInput, match="a LlamaForCausalLM carries no adapter of its own"):
        save_adapter(llama(), tmp_path / "b")


@pytest.mark.parametrize("train", ["lora", "dora"])
def test_an_adapter_that_is_not_all_there_is_refused(train: str, tmp_path: Path) -> None:
    found = adapt(llama(), train, small(train))
    assert found.save is not None
    file = found.save(tmp_path / "a") / "adapter_model.safetensors"
    tensors = load_file(file)
    for wrong in (dict(list(tensors.items())[1:]), tensors | {"base_model.model.other.lora_A.weight": torch.zeros(2)}):
        save_file(wrong, file)
        with pytest.raises(BadInput, match=r"does not fit a LlamaForCausalLM"):
            load_adapter(llama(), tmp_path / "a")
    for broken in (b"xx", b""):
        file.write_bytes(broken)
        with pytest.raises(BadInput, match=r"does not fit a LlamaForCausalLM"):
            load_adapter(llama(), tmp_path / "a")


def test_an_adapter_of_another_depth_is_refused(tmp_path: Path) -> None:
    found = adapt(llama(), "lora", SMALL)
    assert found.save is not None
    found.save(tmp_path / "a")
    shallow = llama()
    del shallow.model.layers[1]
    with pytest.raises(BadInput, match=r"only one of the two has .*layers\.1\..* belongs to another base"):
        load_adapter(shallow, tmp_path / "a")


def test_a_broken_configuration_of_an_adapter_is_refused(tmp_path: Path) -> None:
    found = adapt(llama(), "lora", SMALL)
    assert found.save is not None
    config = found.save(tmp_path / "a") / "adapter_config.json"
    content = json.loads(config.read_text())
    for wrong in ({"peft_type": "NOTHING"}, {"peft_type": None}, {"r": "two"}):
        config.write_text(json.dumps(content | wrong))
        with pytest.raises(BadInput, match=r"does not fit a LlamaForCausalLM"):
            load_adapter(llama(), tmp_path / "a")


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing:FutureWarning:transformers")  # said to peft, not to us
@pytest.mark.parametrize("kind", ["PromptTuningConfig", "PrefixTuningConfig", "PromptEncoderConfig"])
def test_learned_tokens_that_peft_wrote_are_refused(kind: str, tmp_path: Path) -> None:
    config = getattr(peft, kind)(task_type="CAUSAL_LM", num_virtual_tokens=3)
    peft.get_peft_model(llama(), config).save_pretrained(str(tmp_path), save_embedding_layers=False)
    with pytest.raises(BadInput, match="learned tokens before the words, not LoRA or DoRA"):
        load_adapter(llama(), tmp_path)
