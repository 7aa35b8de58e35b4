"""Captioners for the doctor: folders, built-in sizes."""

import torch
from torch import Tensor

from sfumato import losses, models
from sfumato.base import BadInput
from sfumato.models.bare import Bare
from sfumato.models.freeze import choose
from sfumato.recipes.doctor_case import Asked, Case, Choices, no_adapter, only, row_unit, text_length

_TEXT = 16  # tokens of a caption where nothing says how many
_LONGEST = 64


def captioner_case(asked: Asked, bare: Bare, tokenizer: models.Tokenizer | None) -> Case:
    """Return a captioner with made-up captions at full length.

    Raises:
        BadInput: `train` is none that captioners know, or a setting is not theirs.
    """
    no_adapter(asked)
    model, size = bare.model, asked.image_size or bare.image_size
    text = model.config.decoder
    most = getattr(text, "max_position_embeddings", None)
    length = text_length(asked, most, min(_TEXT if most is None else int(most), _LONGEST))

    def train(what: str) -> models.Training:
        return choose(model, what, image_size=size, decoder_is_new=False, words_are_new=False)

    def batch(num_rows: int) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(0)
        return {
            "pixel_values": torch.randn(num_rows, bare.channels, size, size, generator=generator),
            "labels": torch.randint(
                min(5, text.vocab_size - 1), text.vocab_size, (num_rows, length), generator=generator
            ),
        }

    return Case(
        source=bare.source,
        model=model,
        loss_fn=losses.caption_loss,
        batch=batch,
        training=train(asked.train),
        unit=row_unit(asked),
        choices=Choices(names=("heads", "last-1"), choose=train),
        encode=None if tokenizer is None else tokenizer.encode,
        text_name="labels",
        notes=bare.said,
        image_size=size,
        channels=bare.channels,
    )


def built_in_captioner(asked: Asked) -> Case:
    """Return a captioner of a built-in size with random weights."""
    only(asked, "a captioner", "kind", "image_size", "channels", "max_tokens")
    spec = models.SIZES[asked.model]
    size, channels = asked.image_size or spec.image_size, asked.channels or 3
    length = asked.max_tokens or spec.max_tokens
    model = models.build(
        asked.model, vocab_size=spec.vocab_size, image_size=size, max_tokens=length, channels=channels, seed=0
    )
    source = f"captioner of size {asked.model}"
    bare = Bare(kind="captioner", model=model, source=source, is_random=True, image_size=size, channels=channels)
    return captioner_case(asked, bare, None)


def tokenizer_of(folder: str) -> models.Tokenizer | None:
    """Return the tokenizer of a folder, None where there is none."""
    try:
        return models.Tokenizer.from_checkpoint(folder)
    except BadInput:
        return None
