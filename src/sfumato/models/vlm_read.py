"""Reading a vision-language checkpoint folder: model and processor, each refused by name where something is missing."""

from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn
from transformers import AutoConfig, AutoProcessor

from sfumato.base import BadInput
from sfumato.base.reason import reason
from sfumato.models.adapter_blocks import output_embeddings
from sfumato.models.checkpoint import require_all
from sfumato.models.families import Known, known_family
from sfumato.models.folders import quiet, read_json, require_weights

_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")
_PROCESSORS = ("preprocessor_config.json", "processor_config.json")
_DROPOUTS = (
    "dropout",
    "attention_dropout",
    "activation_dropout",
    "hidden_dropout",
    "dropout_rate",
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "embd_pdrop",
    "resid_pdrop",
    "attn_pdrop",
    "drop_path_rate",
    "layerdrop",
)


def read_vlm(path: Path, dtype: torch.dtype) -> tuple[nn.Module, Any, Any, Known]:
    """Return model, processor, configuration and family of a transformers folder.

    Dropout is off in all parts: with clipped and noised gradients it costs accuracy, and a frozen part has none.

    Raises:
        BadInput: naming the file that is missing or broken, the class that has no family, the tensor that is missing or
            has another shape, or the words that the model does not have.
    """
    content = read_json(path / "config.json")
    try:
        known = known_family(content.get("model_type"), content.get("architectures") or ())
    except BadInput as error:
        raise BadInput(f"{path}: {error}") from error
    if content.get("quantization_config"):
        raise BadInput(
            f"{path} holds quantised weights, which are not measured here: take the checkpoint in bfloat16 or float32."
        )
    require_weights(path)
    try:
        # A folder's own code is never run, nor asked about.
        config = AutoConfig.from_pretrained(str(path), local_files_only=True, trust_remote_code=False)
    except Exception as error:  # a library raises anything on a broken file
        raise BadInput(f"{path / 'config.json'} cannot be read: {reason(error)}.") from error
    still(config)
    processor = _read_processor(path)
    model: Any = _read_model(path, getattr(transformers, known.model_class), config, dtype)
    _require_words(model, processor.tokenizer, path)
    return model, processor, config, known


def _require_words(model: Any, tokenizer: Any, path: Path) -> None:
    """Raise BadInput where the tokenizer has more words than the model: one row with such a word would end a run."""
    last = max(tokenizer.get_vocab().values())
    tables = [("input embedding", model.get_input_embeddings())]
    tables += [("vocabulary head", head) for head in output_embeddings(model)]
    for what, table in tables:
        rows = table.weight.shape[0]
        if last >= rows:
            raise BadInput(
                f"{path}: the tokenizer numbers its words up to {last}, the model's {what} has {rows} rows (numbers 0 "
                f"to {rows - 1}): take the tokenizer of this model, or call resize_token_embeddings({last + 1}) on it."
            )


def still(config: Any) -> None:
    """Set every dropout rate of a configuration, its parts' too, to zero, in place."""
    for name in _DROPOUTS:
        if isinstance(getattr(config, name, None), float | int) and getattr(config, name):
            setattr(config, name, 0.0)
    for name in getattr(type(config), "sub_configs", {}):
        if getattr(config, name, None) is not None:
            still(getattr(config, name))


def _read_processor(path: Path) -> Any:
    for files, what in ((_PROCESSORS, "no processor"), (_TOKENIZERS, "no tokenizer")):
        if not any((path / name).is_file() for name in files):
            raise BadInput(f"{path} has {what}: {files[0]} is missing.")
    try:
        with quiet():
            processor = AutoProcessor.from_pretrained(str(path), local_files_only=True, trust_remote_code=False)
    except Exception as error:  # the tokenizers library raises bare Exception on a broken file
        raise BadInput(f"the processor in {path} cannot be read: {reason(error)}.") from error
    for part in ("tokenizer", "image_processor"):
        if getattr(processor, part, None) is None:
            raise BadInput(f"the processor in {path} has no {part}: preprocessor_config.json does not describe it.")
    return processor


def _read_model(path: Path, model_class: Any, config: Any, dtype: torch.dtype) -> nn.Module:
    try:
        with quiet(), torch.random.fork_rng(devices=[]):  # what the file lacks would be drawn at random
            model, report = model_class.from_pretrained(
                str(path),
                config=config,
                local_files_only=True,
                trust_remote_code=False,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # reported below, by name
                dtype=dtype,
            )
    except Exception as error:  # a library raises anything on a broken file
        raise BadInput(f"the weights in {path} cannot be read: {reason(error)}.") from error
    for name, found, expected in sorted(report["mismatched_keys"]):
        raise BadInput(f"{path}: {name} has shape {tuple(found)}, its config.json says {tuple(expected)}.")
    require_all(sorted(report["missing_keys"]), path)
    return model
