"""What a user can bring that does not work is named in one sentence."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers as hf
from safetensors.torch import load_file, save_file
from tests.models.vlms import SIDE, started

from sfumato.base import BadInput
from sfumato.models import load_vlm, start_vlm


@pytest.fixture
def blip(copied: Callable[[str], Path]) -> Path:
    return copied("blip")


@pytest.fixture
def llava(copied: Callable[[str], Path]) -> Path:
    return copied("llava")


@pytest.fixture
def coca(copied: Callable[[str], Path]) -> Path:
    return copied("coca")


def rewrite(file: Path, **fields) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))


def test_a_folder_that_is_not_there(tmp_path) -> None:
    with pytest.raises(BadInput, match="no checkpoint folder"):
        start_vlm(tmp_path / "nowhere")


def test_a_folder_without_configuration(tmp_path) -> None:
    with pytest.raises(BadInput, match=r"config\.json is missing"):
        start_vlm(tmp_path)


def test_a_class_without_a_family_is_refused_with_those_that_work(tmp_path) -> None:
    hf.BertConfig().save_pretrained(tmp_path)
    with pytest.raises(BadInput, match=r"'bert' has no family.*LlavaForConditionalGeneration.*CoCa"):
        start_vlm(tmp_path)


def test_a_blip_that_writes_nothing_is_refused(blip) -> None:
    rewrite(blip / "config.json", architectures=["BlipForImageTextRetrieval"])
    with pytest.raises(BadInput, match="BlipForImageTextRetrieval writes no answers"):
        start_vlm(blip)


@pytest.mark.parametrize(
    ("pattern", "named"),
    [("*processor_config.json", "preprocessor_config.json"), ("tokenizer*.json", "tokenizer.json")],
)
def test_a_missing_part_is_named_by_its_file(blip, pattern: str, named: str) -> None:
    for file in blip.glob(pattern):
        file.unlink()
    with pytest.raises(BadInput, match=named):
        start_vlm(blip)


def test_missing_weights_are_named(blip) -> None:
    (blip / "model.safetensors").unlink()
    with pytest.raises(BadInput, match=r"no weights: model\.safetensors is missing"):
        start_vlm(blip)


def test_a_missing_and_a_misshapen_tensor_are_named(blip) -> None:
    weights = load_file(blip / "model.safetensors")
    name = "vision_model.post_layernorm.weight"
    whole = weights.pop(name)
    save_file(weights, blip / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(BadInput, match=f"lack {name}"):
        start_vlm(blip, max_question=8, max_answer=4)
    save_file(weights | {name: torch.cat([whole, whole])}, blip / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(BadInput, match=f"{name} has shape"):
        start_vlm(blip, max_question=8, max_answer=4)


def test_quantised_weights_are_refused(llava) -> None:
    rewrite(llava / "config.json", quantization_config={"quant_method": "bitsandbytes", "load_in_8bit": True})
    with pytest.raises(BadInput, match="quantised"):
        start_vlm(llava)


def test_a_placeholder_with_another_number_is_refused(llava) -> None:
    rewrite(llava / "config.json", image_token_index=5, image_token_id=5)
    with pytest.raises(BadInput, match="numbers <image>"):
        start_vlm(llava)


def test_an_image_processor_of_another_size_is_refused(blip, llava) -> None:
    for folder, size in (
        (blip, {"size": {"height": 24, "width": 24}}),
        (llava, {"crop_size": {"height": 8, "width": 8}}),
    ):
        file = next(folder.glob("*processor_config.json"))
        content = json.loads(file.read_text())
        target = content.get("image_processor", content)
        target |= size
        file.write_text(json.dumps(content))
        with pytest.raises(BadInput, match="image processor makes pictures"):
            start_vlm(folder, max_question=8, max_answer=4)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"max_question": 0}, "max_question"),
        ({"max_answer": 1}, "max_answer"),
        ({"prompt": "Answer:"}, "prompt must contain"),
        ({"padding_side": "top"}, "padding_side"),
        ({"dtype": "int8"}, "dtype"),
        ({"image_size": 2 * SIDE}, "image_size asks for 32"),
        ({"max_question": 90}, "text positions"),
        ({"train": "everything"}, "train"),
        ({"train": "prefix"}, "lora or dora, got 'prefix'"),
    ],
)
def test_a_setting_that_cannot_be_is_named(blip, settings: dict, named: str) -> None:
    with pytest.raises(BadInput, match=named):
        start_vlm(blip, **({"max_question": 8, "max_answer": 4} | settings))


def test_a_picture_size_that_patches_do_not_tile_is_refused(tmp_path) -> None:
    with pytest.raises(BadInput, match="multiple of 8 pixels"):
        started("qwen2_vl", tmp_path, image_size=20)


def test_coca_names_what_is_wrong(coca) -> None:
    with pytest.raises(BadInput, match="padding_side is right"):
        start_vlm(coca, padding_side="left")
    with pytest.raises(BadInput, match="text positions"):
        start_vlm(coca, max_question=40)
    (coca / "open_clip_model.safetensors").unlink()
    with pytest.raises(BadInput, match="no weights"):
        start_vlm(coca)
    rewrite(coca / "open_clip_config.json", model_cfg={"embed_dim": 8})
    with pytest.raises(BadInput, match="describes no CoCa"):
        start_vlm(coca)


def test_half_precision_is_loaded_as_asked(llava) -> None:
    made = start_vlm(llava, max_question=4, max_answer=3, dtype="bfloat16")
    assert {param.dtype for param in made.model.parameters()} == {torch.bfloat16}
    assert made.training.unreached  # the vision tower's last block, which LLaVA does not read
    assert not made.model.get_parameter(made.training.unreached[0]).requires_grad


# ---------------------------------------------------------------- pictures and their places


@pytest.mark.parametrize(
    ("kind", "fields", "made", "room"),
    [("llava", {"num_additional_image_tokens": 0}, 4, 3), ("smolvlm", {"image_seq_len": 3}, 1, 3)],
)
def test_a_picture_that_does_not_fit_its_places_is_refused(
    copied, kind: str, fields: dict, made: int, room: int
) -> None:
    folder = copied(kind)
    rewrite(folder / "processor_config.json", **fields)
    with pytest.raises(BadInput, match=f"makes {made} tokens of a picture.*room for {room}: processor_config.json"):
        start_vlm(folder, max_question=8, max_answer=4)
    loaded = load_vlm(folder, max_question=8, max_answer=4)
    row = loaded.family.encode(np.zeros((20, 24, 3), np.uint8), "red ?", "red")
    with pytest.raises(BadInput, match="tokens of a picture"):
        loaded.family.logits(loaded.model, {name: value[None] for name, value in row.items()})


def test_a_processor_that_lacks_a_setting_is_refused(llava) -> None:
    content = json.loads((llava / "processor_config.json").read_text())
    del content["patch_size"]
    (llava / "processor_config.json").write_text(json.dumps(content))
    with pytest.raises(BadInput, match=r"processor_config\.json lacks a setting.*TypeError"):
        start_vlm(llava, max_question=8, max_answer=4)


@pytest.mark.parametrize(("kind", "prompt"), [("llava", "<image><image> {question}"), ("smolvlm", "<image>{question}")])
def test_a_prompt_with_a_placeholder_too_many_is_refused(copied, kind: str, prompt: str) -> None:
    with pytest.raises(BadInput, match=r"the processor cannot read a picture with the prompt|tokens of a picture"):
        start_vlm(copied(kind), max_question=8, max_answer=4, prompt=prompt)


def test_a_chat_template_that_takes_no_picture_is_refused(llava) -> None:
    (llava / "chat_template.jinja").write_text("{% for m in messages %}{{ raise_exception('no') }}{% endfor %}")
    with pytest.raises(BadInput, match="the chat template takes no turn of a picture"):
        start_vlm(llava, max_question=8, max_answer=4)


def test_paligemmas_prompt_stands_at_the_picture(copied) -> None:
    folder = copied("paligemma")
    one, two = (
        start_vlm(folder, max_question=8, max_answer=4, prompt=prompt) for prompt in (None, "answer en {question}")
    )
    rows = [made.family.encode(np.zeros((20, 24, 3), np.uint8), "red ?", "yes") for made in (one, two)]
    assert torch.equal(rows[0]["input_ids"], rows[1]["input_ids"])
    assert one.facts == two.facts
