"""Exports of dual encoders: folders that transformers or open_clip load without sfumato, and their reader."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from sfumato.base import BadInput
from sfumato.models import modeling_sfumato_stem, modeling_sfumato_words
from sfumato.models.checkpoint import load_with_gaps, require_all
from sfumato.models.dual_sources import DUAL_CLASSES, locate_dual
from sfumato.models.export import image_processor, read_preprocess, written_beside
from sfumato.models.folders import quiet, read_json, require_weights
from sfumato.models.open_clip_door import CONFIG, read_open_clip, write_open_clip
from sfumato.models.started import LoadedTowers
from sfumato.models.still_norms import hold_batch_norms
from sfumato.models.tokenizer import Tokenizer
from sfumato.models.towers import Towers

_OWN_CODE = {"sfumato_stem": modeling_sfumato_stem, "sfumato_words": modeling_sfumato_words}


def export_dual(
    model: nn.Module, embed: Towers, tokenizer: Tokenizer, preprocess: Mapping[str, Any], folder: str | Path
) -> Path:
    """Write a dual encoder as an ordinary folder of transformers, or of open_clip where the model is one of its.

    The files are written beside the folder first. A new folder appears whole; in an existing one each file is replaced
    whole, the weights last, and files of other names stay.

    Args:
        model, embed, tokenizer: as `start_dual` or `load_dual` gave them.
        preprocess: `image_size`, `mean`, `std`, `channels` of the run, written as transformers' image processor.

    Returns:
        The folder.

    Raises:
        BadInput: a model of another kind.
    """
    if embed.kind not in ("transformers", "open_clip"):
        raise BadInput(f"export_dual writes models of transformers and open_clip, not towers of kind {embed.kind!r}.")
    with written_beside(folder) as beside, quiet():
        if embed.kind == "open_clip":
            write_open_clip(model, json.loads(embed.architecture or "{}"), dict(preprocess), beside)
        else:
            _write_transformers(model, beside)
        tokenizer.save(beside)
        image_processor(preprocess).save_pretrained(str(beside))
    return Path(folder)


def load_dual(folder: str | Path) -> LoadedTowers:
    """Read what `export_dual` wrote (or a run's folder that holds it); BadInput names what is missing."""
    path = locate_dual(folder)
    preprocess, tokenizer = read_preprocess(path), Tokenizer.from_checkpoint(path)
    if (path / CONFIG).is_file():
        found = read_open_clip(path)
        model, architecture = found.model, json.dumps(found.architecture, sort_keys=True)
        embed = Towers("open_clip", tokenizer.pad_id, architecture)
    else:
        model, embed = _read_transformers(path), Towers("transformers", tokenizer.pad_id)
    hold_batch_norms(model)
    return LoadedTowers(model=model.eval(), embed=embed, tokenizer=tokenizer, preprocess=preprocess)


def _write_transformers(model: Any, folder: Path) -> None:
    model.save_pretrained(str(folder), max_shard_size="1TB")
    for tower in (model.config.vision_config, model.config.text_config):
        if code := _OWN_CODE.get(tower.model_type):  # the class travels with its weights
            source = Path(str(code.__file__))
            shutil.copyfile(source, folder / source.name)


def _read_transformers(path: Path) -> Any:
    model_type = read_json(path / "config.json").get("model_type")
    if model_type not in DUAL_CLASSES:
        raise BadInput(f"{path} holds a {model_type!r}, which is no dual encoder ({', '.join(DUAL_CLASSES)}).")
    require_weights(path)
    model, missing = load_with_gaps(DUAL_CLASSES[model_type], path)
    require_all(missing, path)
    return model
