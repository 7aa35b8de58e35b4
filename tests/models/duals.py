"""Small dual encoders of every kind as local folders: what a user may bring."""

import json
from pathlib import Path
from typing import Any

import open_clip
import torch
import transformers as hf
from safetensors.torch import save_file
from tests.models.conftest import VIT, jitter

from sfumato.models import StartedTowers, Tokenizer, start_dual

L, SIDE = 8, 32
FOLDERS = ("clip", "siglip", "vit-bert")
TEXTS = ["a red circle above two blue squares", "an ankle boot", "a photo", "two boot", "red", "blue photo of a boot"]
SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
OPEN_CLIP = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": SIDE, "layers": 2, "width": 32, "head_width": 8, "patch_size": 8},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 8, "heads": 2, "layers": 2},
}


def words() -> Tokenizer:
    return Tokenizer.from_public_text(["a red circle above two blue squares", "a photo of an ankle boot"])


def bert(tokenizer: Tokenizer) -> Any:
    return hf.BertConfig(vocab_size=tokenizer.vocab_size, max_position_embeddings=12, **SMALL)


def small(kind: str, tokenizer: Tokenizer) -> Any:
    """A small model of a transformers class, away from its initial weights."""
    torch.manual_seed(5)
    text = {"vocab_size": tokenizer.vocab_size, "max_position_embeddings": L, **SMALL}
    if kind == "clip":
        text |= {"eos_token_id": tokenizer.eos_id, "pad_token_id": 0}
        return jitter(hf.CLIPModel(hf.CLIPConfig(text_config=text, vision_config=VIT, projection_dim=16)))
    if kind == "siglip":
        return jitter(hf.SiglipModel(hf.SiglipConfig(text_config=text, vision_config=VIT)))
    config = hf.VisionTextDualEncoderConfig.from_vision_text_configs(
        hf.ViTConfig(**VIT), bert(tokenizer), projection_dim=16
    )
    return jitter(hf.VisionTextDualEncoderModel(config))


def write(kind: str, folder: Path) -> Path:
    """Write a small checkpoint with its tokenizer and return the folder."""
    tokenizer = words()
    small(kind, tokenizer).save_pretrained(folder)
    tokenizer.save(folder)
    return folder


def write_open_clip(folder: Path, name: str, config: dict | None = None) -> tuple[str, Path]:
    """Register an architecture with open_clip and write random weights for it: its name and the weights' file."""
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(config or OPEN_CLIP))
    open_clip.add_model_config(folder / f"{name}.json")
    torch.manual_seed(6)
    model = jitter(open_clip.CLIP(**(config or OPEN_CLIP)))
    file = folder / f"{name}.safetensors"
    save_file({key: tensor.contiguous() for key, tensor in model.state_dict().items()}, file)
    return name, file


def started(kind: str, folder: Path, **settings: Any) -> StartedTowers:
    """A small dual encoder of any kind, started as a user would."""
    if kind == "open_clip":
        name, file = write_open_clip(folder, f"small-{folder.name}")
        return start_dual(
            init=f"open_clip:{name}:{file}", tokenizer=Tokenizer.of_open_clip(), image_size=SIDE, max_tokens=77, seed=0,
            **settings,
        )  # fmt: skip
    if kind in ("micro", "tiny"):
        return start_dual(size=kind, tokenizer=words(), image_size=SIDE, max_tokens=L, seed=0, **settings)
    init = write(kind, folder)
    return start_dual(init=init, tokenizer=words(), image_size=SIDE, max_tokens=L, seed=0, **settings)


def batch_of(started: StartedTowers, count: int = 6, seed: int = 1) -> dict[str, torch.Tensor]:
    side, channels = started.preprocess["image_size"], started.preprocess["channels"]
    length = 77 if started.embed.kind == "open_clip" else L
    assert started.tokenizer is not None
    return {
        "pixel_values": torch.randn(count, channels, side, side, generator=torch.Generator().manual_seed(seed)),
        "input_ids": started.tokenizer.encode_texts(TEXTS[:count], length),
    }
