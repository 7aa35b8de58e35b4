"""Where training starts: at random, at a former run, or at a local checkpoint of a captioner or an image encoder."""

import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from transformers import VisionEncoderDecoderConfig, VisionEncoderDecoderModel

from sfumato.base import BadInput
from sfumato.models.captioner import Attention, assemble, build, join
from sfumato.models.checkpoint import Checkpoint, read_checkpoint, without_pooler
from sfumato.models.foreign import names_the_model
from sfumato.models.freeze import Training, choose
from sfumato.models.initialise import as_key, initialise
from sfumato.models.sizes import decoder_config, named_size
from sfumato.models.tokenizer import Tokenizer
from sfumato.models.transplant import Moved, transplant

_DROPOUT_FIELDS = (
    "dropout",
    "attention_dropout",
    "activation_dropout",
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "embd_pdrop",
    "resid_pdrop",
    "attn_pdrop",
)
_DEPTH_DROPOUT_FIELDS = ("drop_path_rate", "layerdrop", "decoder_layerdrop")  # one draw for a whole layer: off


@dataclass(frozen=True, kw_only=True)
class Started:
    """A captioner ready to train.

    Attributes:
        model: in training mode, `requires_grad` set.
        training: which parameters train and which do not.
        notes: what was taken from where and what was adapted, for the log and the card.
    """

    model: VisionEncoderDecoderModel
    training: Training
    notes: tuple[str, ...]


@names_the_model
def start(
    *,
    tokenizer: Tokenizer,
    image_size: int,
    max_tokens: int,
    seed: bytes | int,
    channels: int = 3,
    size: str | None = None,
    init: str | Path | None = None,
    train: str = "all",
    dropout: float = 0.0,
    attention: Attention = "sdpa",
) -> Started:
    """Return a captioner that starts at random, at a former run, or at a local transformers checkpoint.

    Without `init`: random weights of `size`. With a captioner (a run's folder or a VisionEncoderDecoderModel): its
    architecture; a `size` given as well must have the same shapes. With an image encoder: the checkpoint's encoder, its
    own biases included, and the random decoder of `size`. Vocabulary, text length and image size may differ from the
    checkpoint's (see `transplant`).

    Args:
        tokenizer: of this run.
        image_size, max_tokens, channels, size, dropout, attention, seed: as in `build`.
        init: folder, or None.
        train: `all`, `heads` or `last-K` (see `freeze.choose`).

    Raises:
        BadInput: naming the setting, what the folder lacks, or the tensor that does not fit.
    """
    fields: dict[str, Any] = {
        "image_size": image_size,
        "max_tokens": max_tokens,
        "channels": channels,
        "dropout": dropout,
        "attention": attention,
        "seed": seed,
    }
    source = read_checkpoint(init) if init is not None else None
    if source is None:
        if size is None:
            raise BadInput("a start without a checkpoint needs a size: micro, nano, tiny, small, base or large.")
        model = build(size, vocab_size=tokenizer.vocab_size, **tokenizer.special_ids, **fields)
        moved = Moved(notes=(f"random weights of size {size}",), new_tokens=0)
    else:
        model = _skeleton(source, size, tokenizer, fields)
        moved = transplant(model, source, tokenizer)
        origin = (
            f"{'captioner' if source.kind == 'whole' else source.config.model_type + ' encoder'} of {source.folder}"
        )
        moved = replace(moved, notes=(origin, *moved.notes))
    training = choose(
        model,
        train,
        image_size=image_size,
        decoder_is_new=source is not None and source.kind == "encoder",
        words_are_new=moved.new_tokens > 0,
    )
    return Started(model=model.train(), training=training, notes=moved.notes)


def _skeleton(source: Checkpoint, size: str | None, tokenizer: Tokenizer, fields: dict[str, Any]) -> Any:
    """Make the randomly initialised model that the checkpoint's weights go into."""
    if source.kind == "whole" and size is not None:
        return build(size, vocab_size=tokenizer.vocab_size, **tokenizer.special_ids, **fields)
    config = _whole(source, tokenizer, fields) if source.kind == "whole" else _joined(source, size, tokenizer, fields)
    model = assemble(config, max_tokens=fields["max_tokens"], seed=fields["seed"], attention=fields["attention"])
    if hasattr(config, "sfumato"):  # a foreign captioner keeps the initial weights of its own classes
        initialise(model, as_key(fields["seed"]), named_size(config.sfumato["size"]).init_std)
    return model


def _whole(source: Checkpoint, tokenizer: Tokenizer, fields: dict[str, Any]) -> VisionEncoderDecoderConfig:
    config = copy.deepcopy(source.config)
    config.encoder = fit_tower(without_pooler(config.encoder), source.folder, fields)
    text = fit_tower(config.decoder, source.folder, fields)
    if text.model_type == "mbart":
        text.max_position_embeddings = fields["max_tokens"]
    elif (positions := getattr(text, "max_position_embeddings", fields["max_tokens"])) < fields["max_tokens"]:
        raise BadInput(f"{source.folder} knows {positions} text positions, max_tokens asks for {fields['max_tokens']}.")
    text.vocab_size = tokenizer.vocab_size
    start_id = config.decoder_start_token_id
    if start_id is None or not tokenizer.same_ids(source.tokenizer):
        start_id = tokenizer.bos_id
    for part in (config, text):
        part.pad_token_id, part.bos_token_id = tokenizer.pad_id, tokenizer.bos_id
        part.eos_token_id, part.decoder_start_token_id = tokenizer.eos_id, start_id
    return config


def _joined(
    source: Checkpoint, size: str | None, tokenizer: Tokenizer, fields: dict[str, Any]
) -> VisionEncoderDecoderConfig:
    if size is None:
        raise BadInput(f"{source.folder} holds an image encoder only: give a size for the text decoder.")
    text = decoder_config(
        named_size(size),
        vocab_size=tokenizer.vocab_size,
        max_tokens=fields["max_tokens"],
        dropout=fields["dropout"],
        **tokenizer.special_ids,
    )
    encoder = fit_tower(without_pooler(copy.deepcopy(source.config)), source.folder, fields)
    return join(encoder, text, size=size, without_bias=("decoder",))


def fit_tower(config: Any, folder: Path, fields: dict[str, Any]) -> Any:
    """Set image size, channels and dropout in a tower's configuration, in place; BadInput if patches do not tile."""
    if hasattr(config, "image_size"):
        patch = getattr(config, "patch_size", 1)
        if isinstance(patch, int) and fields["image_size"] % patch:
            raise BadInput(f"image size {fields['image_size']} is no multiple of the patch {patch} of {folder}.")
        config.image_size = fields["image_size"]
    if hasattr(config, "num_channels"):
        config.num_channels = fields["channels"]
    for names, value in ((_DROPOUT_FIELDS, fields["dropout"]), (_DEPTH_DROPOUT_FIELDS, 0.0)):
        for name in names:
            if hasattr(config, name):
                setattr(config, name, value)
    return config
