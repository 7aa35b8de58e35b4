"""Exports of a pair of towers: a folder that loads with timm and transformers alone, and its reader.

image/                    an export of an image encoder (see `encoder_export`); here a timm checkpoint
text/                     a transformers folder with its tokenizer
text_adapter/             where LoRA trained on the text tower: peft's folder, for the model in text/
projections.safetensors   image_projection.weight (d, F), text_projection.weight (d, G)
config.json               widths, the padding token, the preprocessing
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from sfumato.base import BadInput
from sfumato.models.adapter_peft import base_state, is_adapted, load_adapter, save_adapter
from sfumato.models.encoder_export import fill, public_preprocess, read_encoder, write_encoder
from sfumato.models.folders import locate, quiet, read_json
from sfumato.models.pretrained import plain_bert
from sfumato.models.started import LoadedTowers
from sfumato.models.tokenizer import Tokenizer
from sfumato.models.tower_pair import TowerPair
from sfumato.models.towers import Towers
from sfumato.models.whole_folder import whole_folder

MODEL_TYPE = "sfumato_pair"
PROJECTIONS = "projections.safetensors"
ADAPTER = "text_adapter"


def export_pair(model: TowerPair, tokenizer: Tokenizer, preprocess: Mapping[str, Any], folder: str | Path) -> Path:
    """Write a pair as a folder that loads without sfumato (see `docs/image-encoders.md`), and return the folder.

    A new folder appears whole; in an existing one each file is replaced whole, weights last.

    Args:
        model: of `lit_pair` or `load_pair`.
        tokenizer: of its text tower.
        preprocess: `image_size`, `mean`, `std`, `channels`.
    """
    heads = {
        f"{name}.weight": model.get_submodule(name).get_parameter("weight").detach().cpu().contiguous()
        for name in ("image_projection", "text_projection")
    }
    widths = {name.split("_")[0] + "_width": weight.shape[1] for name, weight in heads.items()}
    config = {
        "model_type": MODEL_TYPE,
        "embed_dim": model.image_projection.out_features,
        **widths,
        "pad_id": model.pad_id,
        "preprocess": public_preprocess(preprocess),
    }
    with whole_folder(folder) as into:
        for name in ("image", "text"):
            (into / name).mkdir()
        write_encoder(model.image, preprocess, into / "image")
        with quiet():
            model.text.save_pretrained(str(into / "text"), state_dict=base_state(model.text), max_shard_size="1TB")
        if is_adapted(model.text):
            save_adapter(model.text, into / ADAPTER)
        tokenizer.save(into / "text")
        (into / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        save_file(heads, into / PROJECTIONS, metadata={"format": "pt"})
    return Path(folder)


def load_pair(folder: str | Path) -> LoadedTowers:
    """Read what `export_pair` wrote, or a run's folder that holds it; the model is in evaluation mode.

    Raises:
        BadInput: naming what is missing or does not fit.
    """
    path = locate(folder)
    config = read_json(path / "config.json")
    if config.get("model_type") != MODEL_TYPE:
        raise BadInput(f"{path} holds no pair of towers (its config.json says {config.get('model_type')!r}).")
    image, text = read_encoder(path / "image"), plain_bert(path / "text")
    if (path / ADAPTER).is_dir():
        load_adapter(text, path / ADAPTER)
    with torch.random.fork_rng(devices=[]):
        model = TowerPair(
            image,
            text,
            image_width=int(config["image_width"]),
            text_width=int(config["text_width"]),
            embed_dim=int(config["embed_dim"]),
        )
    heads = torch.nn.ModuleDict({name: model.get_submodule(name) for name in ("image_projection", "text_projection")})
    fill(heads, path / PROJECTIONS)
    return LoadedTowers(
        model=model.eval(),
        embed=Towers(kind="pair", pad_id=int(config["pad_id"])),
        tokenizer=Tokenizer.from_checkpoint(path / "text"),
        preprocess=public_preprocess(config.get("preprocess", {})),
    )
