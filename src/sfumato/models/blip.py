"""A small BLIP for visual question answering from scratch, in transformers' own classes."""

import copy
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import processors
from transformers import BlipConfig, BlipForQuestionAnswering, BlipImageProcessor, BlipProcessor

from sfumato.base import BadInput
from sfumato.models.export import written_beside
from sfumato.models.families import Setup
from sfumato.models.families.blip import BlipAnswering, hold_masks
from sfumato.models.folders import quiet
from sfumato.models.initialise import as_key, initialise
from sfumato.models.tokenizer import Tokenizer
from sfumato.models.vlm import StartedVlm, digest_of
from sfumato.models.vlm_train import choose_parameters

PATCH = 8


@dataclass(frozen=True, kw_only=True)
class BlipSize:
    """Width, heads, layers and MLP width of the picture encoder, the question encoder and the answer decoder each."""

    dim: int
    heads: int
    depth: int
    mlp: int


BLIP_SIZES = {
    "micro": BlipSize(dim=96, heads=4, depth=2, mlp=192),
    "tiny": BlipSize(dim=128, heads=4, depth=3, mlp=512),
}


def start_blip(
    size: str,
    *,
    seed: bytes | int,
    tokenizer: Tokenizer | None = None,
    texts: Iterable[str] = (),
    image_size: int = 64,
    max_question: int = 24,
    max_answer: int = 8,
    prompt: str | None = None,
    train: str = "all",
    adapter: Any = None,
) -> StartedVlm:
    """Return a `BlipForQuestionAnswering` with random weights, a WordPiece vocabulary and square pictures.

    The start is a function of the arguments: every tensor has its own stream below `seed`. Questions, pictures and
    answers each have their own small transformer; the answer's vocabulary head is its word embedding.

    Args:
        size: `micro` or `tiny`.
        seed: a key of 32 bytes, or anything that is hashed to one.
        tokenizer: of the run, or
        texts: public text from which the vocabulary is made (never the private questions and answers).
        image_size: side in pixels, a multiple of 8.
        max_question, max_answer, prompt, train, adapter: as in `start_vlm`.

    Raises:
        BadInput: naming the setting.
    """
    if size not in BLIP_SIZES:
        raise BadInput(f"the size of a BLIP is one of {', '.join(BLIP_SIZES)}, got {size!r}.")
    if image_size < PATCH or image_size % PATCH:
        raise BadInput(f"image size {image_size} is not a multiple of the patch of {PATCH} pixels.")
    words = tokenizer if tokenizer is not None else Tokenizer.from_public_text(texts)
    processor = _processor(words, image_size)
    config = _config(BLIP_SIZES[size], words, image_size, longest=max_question + max_answer + _framing(prompt, words))
    with torch.random.fork_rng(devices=[]):
        model = BlipForQuestionAnswering(config)
    initialise(model, as_key(seed), None)
    _calm(model)
    hold_masks(model)
    family = BlipAnswering(
        Setup(config=config, processor=processor, max_question=max_question, max_answer=max_answer, prompt=prompt)
    )
    chosen = choose_parameters(model, family, train, adapter, seed=seed)

    def export(folder: Path) -> None:
        with written_beside(folder) as beside:
            if chosen.save is not None:
                chosen.save(beside)
                return
            with quiet():
                model.save_pretrained(str(beside), max_shard_size="1TB")
            processor.save_pretrained(str(beside))

    return StartedVlm(
        model=chosen.model.train(),
        family=family,
        training=chosen.training,
        notes=(f"random weights of a {size} BLIP", *chosen.notes),
        facts=family.facts | {"size": size},
        digest=digest_of(processor, family.words),
        export=export,
    )


@torch.no_grad()
def _calm(model: BlipForQuestionAnswering) -> None:
    """Bring the answers' word embedding, which is the vocabulary's head too, to std .02: the first guess is uniform."""
    table = model.text_decoder.get_input_embeddings().weight
    table.mul_(0.02 * table.shape[1] ** 0.5)  # the head had drawn it with 1 / sqrt(fan-in)


def _framing(prompt: str | None, words: Tokenizer) -> int:
    return 4 + (words.count_text_tokens([prompt])[0] if prompt else 0)


def _config(size: BlipSize, words: Tokenizer, image_size: int, longest: int) -> BlipConfig:
    shared = {
        "hidden_size": size.dim,
        "num_hidden_layers": size.depth,
        "num_attention_heads": size.heads,
        "intermediate_size": size.mlp,
    }
    text = shared | {
        "vocab_size": words.vocab_size,
        "max_position_embeddings": longest,
        "encoder_hidden_size": size.dim,
        "projection_dim": size.dim,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "pad_token_id": words.pad_id,
        "bos_token_id": words.bos_id,
        "eos_token_id": words.eos_id,
        "sep_token_id": words.eos_id,
    }
    vision = shared | {"image_size": image_size, "patch_size": PATCH}
    return BlipConfig(text_config=text, vision_config=vision, projection_dim=size.dim)


def _processor(words: Tokenizer, image_size: int) -> BlipProcessor:
    """Return a processor whose tokenizer frames a question as BLIP's does, [CLS] ... [SEP]."""
    tokenizer = copy.deepcopy(words.backend)
    start, end = (str(tokenizer.convert_ids_to_tokens(token)) for token in (words.bos_id, words.eos_id))
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{start} $A {end}", special_tokens=[(start, words.bos_id), (end, words.eos_id)]
    )
    half = [0.5, 0.5, 0.5]
    square = {"height": image_size, "width": image_size}
    return BlipProcessor(BlipImageProcessor(size=square, image_mean=half, image_std=half), tokenizer)
