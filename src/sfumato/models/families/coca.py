"""CoCa of open_clip: its text tower reads question and answer, its decoder attends to the picture."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import CLIPImageProcessor

from sfumato.base import BadInput
from sfumato.base.reason import reason
from sfumato.models.captioner import evaluating
from sfumato.models.families.decoder import Decoder
from sfumato.models.families.family import QUESTION, Rows, Setup, require_positions
from sfumato.models.families.prompts import filled, pixels_of
from sfumato.models.families.words import padded, words_of
from sfumato.models.folders import read_json
from sfumato.models.open_clip_door import CONFIG, WEIGHTS, open_clip_module, write_open_clip
from sfumato.models.tokenizer import Tokenizer

_FILES = (WEIGHTS, "open_clip_pytorch_model.safetensors", "open_clip_pytorch_model.bin")
_VOCABULARY = 49408
_DROPOUTS = ("patch_dropout", "timm_drop", "timm_drop_path")


@dataclass(frozen=True, kw_only=True)
class CocaProcessor:
    """What open_clip keeps beside a model: its own tokenizer, and the normalisation as an image processor."""

    tokenizer: Any
    image_processor: Any


class Coca(Decoder):
    """`open_clip.CoCa`: positions are counted from the left edge, so that rows are padded on the right."""

    name = "CoCa"
    idle: tuple[str, ...] = ("text.cls_emb",)  # read by nobody but itself: causal attention keeps it from the words

    def __init__(self, setup: Setup) -> None:
        if setup.padding_side == "left":
            raise BadInput("CoCa counts positions from the left edge: padding_side is right.")
        setup = replace(setup, padding_side="right")
        self.prompt = setup.prompt or QUESTION
        self.image_processor = setup.processor.image_processor
        side = setup.fixed_side(_side(setup.config), self.name)
        tokenizer = setup.processor.tokenizer
        words = replace(words_of(tokenizer, end=tokenizer.eos_token_id), pad_id=0)
        self.start_id = tokenizer.bos_token_id
        length = 1 + len(words.ids(filled(self.prompt, ""))) + setup.max_question
        self.context = setup.config["text_cfg"]["context_length"]
        require_positions(length + setup.max_answer, self.context)
        super().__init__(setup, words, length, {"image_size": side, "prompt": self.prompt})

    def read(self, picture: np.ndarray, question: str) -> tuple[list[int], list[int], Rows]:
        ids = [self.start_id, *self.words.ids(filled(self.prompt, question))]
        return ids, [0] * len(ids), {"pixel_values": pixels_of(self.image_processor, picture)}

    def see(self, model: Any, batch: Rows) -> Tensor:
        return model.visual(batch["pixel_values"].to(next(model.visual.parameters()).dtype))[1]

    def run(self, model: Any, batch: Rows, seen: Tensor | None, keep: int) -> Tensor:
        words = model.text(batch["input_ids"])[1]
        return model.text_decoder(seen, words)[:, -keep:]

    def ask(self, picture: np.ndarray, question: str) -> Rows:
        ids, _, pixels = self._prompt(picture, question)
        mask = padded([1] * len(ids), self.prompt_length, 0, "right")
        return {"input_ids": padded(ids, self.prompt_length, 0, "right"), "attention_mask": mask} | pixels

    @torch.no_grad()
    def generate(self, model: Any, batch: Rows, *, max_new_tokens: int) -> list[str]:
        """Return the greedy answers, written where the padding was."""
        lengths, ids = batch["attention_mask"].sum(1), batch["input_ids"]
        room = min(max_new_tokens, self.context - ids.shape[1])
        ids = torch.cat([ids, ids.new_zeros(len(ids), room)], 1)
        rows = torch.arange(len(ids), device=ids.device)
        said: list[Tensor] = []
        with evaluating(model):
            seen = self.see(model, batch)
            for step in range(room):
                found = self.run(model, {"input_ids": ids}, seen, ids.shape[1])
                token = found[rows, lengths + step - 1].argmax(-1)
                ids[rows, lengths + step] = token
                said.append(token)
        return [self.words.text(row) for row in torch.stack(said, 1).tolist()] if said else [""] * len(ids)


def is_coca(folder: Path) -> bool:
    """Whether a folder is in open_clip's layout."""
    return (folder / CONFIG).is_file()


def read_coca(folder: Path) -> tuple[nn.Module, CocaProcessor, dict[str, Any]]:
    """Return the model of a folder in open_clip's `local-dir:` layout, its processor and its architecture.

    Dropout is off, in the architecture too, as in `read_vlm`.

    Raises:
        BadInput: it is no CoCa, another tokenizer is needed, or the weights are missing or do not fit.
    """
    content = read_json(folder / CONFIG)
    config = content.get("model_cfg", {})
    if "multimodal_cfg" not in config:
        raise BadInput(f"{folder / CONFIG} describes no CoCa: model_cfg.multimodal_cfg is missing.")
    if config["text_cfg"].get("hf_model_name") or config["text_cfg"].get("vocab_size") != _VOCABULARY:
        raise BadInput(f"{folder} has another vocabulary than open_clip's own {_VOCABULARY} tokens.")
    file = next((folder / name for name in _FILES if (folder / name).is_file()), None)
    if file is None:
        raise BadInput(f"{folder} has a configuration but no weights: {WEIGHTS} is missing.")
    sight = config.get("vision_cfg", {})
    config["vision_cfg"] = sight | {name: 0.0 for name in _DROPOUTS if name in sight}
    settings = {name: value for name, value in config.items() if name != "custom_text"}
    try:
        model = open_clip_module().CoCa(**settings)
        open_clip_module().load_checkpoint(model, str(file), weights_only=True)
    except Exception as error:  # a library raises anything on a broken file
        raise BadInput(f"the weights in {file} do not fit: {reason(error)}.") from error
    return model, _processor(config, content.get("preprocess_cfg", {})), config


def write_coca(model: nn.Module, config: dict[str, Any], processor: CocaProcessor, folder: Path) -> None:
    """Write what open_clip reads as `local-dir:`."""
    images = processor.image_processor
    write_open_clip(
        model, config, {"mean": images.image_mean, "std": images.image_std, "image_size": _side(config)}, folder
    )


def _side(config: dict[str, Any]) -> int:
    side = config["vision_cfg"].get("image_size", 224)
    return int(side[0] if isinstance(side, list | tuple) else side)


def _processor(config: dict[str, Any], preprocess: dict[str, Any]) -> CocaProcessor:
    constants, side = open_clip_module().constants, _side(config)
    images = CLIPImageProcessor(
        size={"shortest_edge": side},
        crop_size={"height": side, "width": side},
        resample=3,  # bicubic
        image_mean=list(preprocess.get("mean", constants.OPENAI_DATASET_MEAN)),
        image_std=list(preprocess.get("std", constants.OPENAI_DATASET_STD)),
    )
    return CocaProcessor(tokenizer=Tokenizer.of_open_clip().backend, image_processor=images)
