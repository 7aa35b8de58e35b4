"""Any vision-language model of a local folder, ready for private fine-tuning on questions about pictures."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from sfumato.base import BadInput
from sfumato.models.export import written_beside
from sfumato.models.families import Family, Setup
from sfumato.models.families.blip import hold_masks
from sfumato.models.families.coca import Coca, is_coca, read_coca, write_coca
from sfumato.models.families.qwen import hold_patches
from sfumato.models.families.words import Words
from sfumato.models.folders import locate, quiet
from sfumato.models.foreign import names_the_model
from sfumato.models.freeze import Training
from sfumato.models.recompute import recompute_activations
from sfumato.models.vlm_read import read_vlm
from sfumato.models.vlm_train import choose_parameters

_TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "float64": torch.float64}


@dataclass(frozen=True, kw_only=True)
class StartedVlm:
    """A vision-language model ready to train.

    Attributes:
        model: in training mode, `requires_grad` set; a frozen BatchNorm stays in evaluation mode.
        family: how this architecture is fed, read and asked.
        training: which parameters train and which do not.
        notes: what was taken from where and what was adapted, for the log and the card.
        facts: public constants: image_size, max_question, max_answer, prompt, ...
        digest: hex hash of the tokenizer, the image processor and the chat template, for the fingerprint of a run.
        export: writes a folder that loads without sfumato.
    """

    model: nn.Module
    family: Family
    training: Training
    notes: tuple[str, ...]
    facts: dict[str, Any]
    digest: str
    export: Callable[[Path], None]


@names_the_model
def start_vlm(
    folder: str | Path,
    *,
    train: str = "all",
    max_question: int = 24,
    max_answer: int = 8,
    prompt: str | None = None,
    image_size: int | None = None,
    adapter: Any = None,
    dtype: str | None = None,
    padding_side: Literal["left", "right"] | None = None,
    gradient_checkpointing: bool = False,
    seed: bytes | int = 0,
) -> StartedVlm:
    """Return the model of a local folder: a transformers vision-language class with its processor, or open_clip's CoCa.

    Args:
        folder: as `save_pretrained` writes it (model and processor), a run of sfumato with an export, or open_clip's
            `local-dir:` layout.
        train: what trains: `all`, or a choice of `adapters.adapt`.
        max_question: tokens kept of a question; those of the prompt and of the picture come on top.
        max_answer: tokens of an answer, its end token included.
        prompt: public text around "{question}"; None: the model's chat template, or its family's usual prompt.
        image_size: side of the square pictures, where the architecture leaves a choice (Qwen2-VL).
        adapter: settings of `adapters.adapt`.
        dtype: float32 (default), bfloat16, float16 or float64, of the weights.
        padding_side: of questions; None: the family's own. Losses are the same.
        gradient_checkpointing: compute activations again in the backward pass instead of keeping them.
        seed: of an adapter's initial values, 32 secret bytes or a number.

    Raises:
        BadInput: naming the setting, or what the folder lacks.
    """
    opened = _open(
        folder,
        dtype,
        max_question=max_question,
        max_answer=max_answer,
        prompt=prompt,
        image_size=image_size,
        padding_side=padding_side,
    )
    chosen = choose_parameters(opened.model, opened.family, train, adapter, base=str(opened.path), seed=seed)
    if gradient_checkpointing:
        recompute_activations(opened.model)
    started = _started(opened, chosen.training, notes=chosen.notes, save=chosen.save)
    return replace(started, model=chosen.model.train())


def load_vlm(folder: str | Path, *, dtype: str | None = None, **sizes: Any) -> StartedVlm:
    """Read an export back, in evaluation mode; arguments and errors as `start_vlm`, without those of training."""
    opened = _open(folder, dtype, **sizes)
    opened.model.requires_grad_(False).eval()
    names = tuple(name for name, _ in opened.model.named_parameters())
    return _started(opened, Training(trainable=(), frozen=names, absent=(), unreached=()))


def digest_of(processor: Any, words: Words) -> str:
    """Return a hex hash of what a processor makes of texts and pictures: two processors of one hash feed alike."""
    parts = (
        repr((words.end_id, words.pad_id, sorted(processor.tokenizer.special_tokens_map.items()))),
        processor.tokenizer.backend_tokenizer.to_str(),
        processor.image_processor.to_json_string(),
        str(getattr(processor, "chat_template", None)),
    )
    return hashlib.blake2b("\0".join(parts).encode(), digest_size=16).hexdigest()


@dataclass(frozen=True, kw_only=True)
class _Opened:
    path: Path
    model: nn.Module
    family: Family
    digest: str
    write: Callable[[Path], None]


def _open(folder: str | Path, dtype: str | None, **sizes: Any) -> _Opened:
    if dtype is not None and dtype not in _TYPES:
        raise BadInput(f"dtype is one of {', '.join(_TYPES)}, got {dtype!r}.")
    path, kind = locate(folder), _TYPES[dtype or "float32"]
    if is_coca(path):
        coca, images, architecture = read_coca(path)
        family = Coca(_setup(architecture, images, **sizes))
        return _Opened(
            path=path,
            model=coca.to(kind),
            family=family,
            digest=digest_of(images, family.words),
            write=lambda to: write_coca(coca, architecture, images, to),
        )
    model, processor, config, known = read_vlm(path, kind)
    made = known.make(_setup(config, processor, **sizes))
    hold_patches(model)
    hold_masks(model)

    def write(to: Path) -> None:
        with quiet():
            model.save_pretrained(str(to), max_shard_size="1TB")  # pyright: ignore[reportCallIssue]
        processor.save_pretrained(str(to))

    return _Opened(path=path, model=model, family=made, digest=digest_of(processor, made.words), write=write)


def _setup(config: Any, processor: Any, *, max_question: int = 24, max_answer: int = 8, **sizes: Any) -> Setup:
    return Setup(config=config, processor=processor, max_question=max_question, max_answer=max_answer, **sizes)


def _started(
    opened: _Opened,
    training: Training,
    *,
    notes: tuple[str, ...] = (),
    save: Callable[[Path], object] | None = None,
) -> StartedVlm:
    return StartedVlm(
        model=opened.model,
        family=opened.family,
        training=training,
        notes=(f"{opened.family.name} of {opened.path}", "dropout off in all parts", *notes),
        facts=opened.family.facts,
        digest=opened.digest,
        export=_exporter(opened.write, save),
    )


def _exporter(write: Callable[[Path], None], save: Callable[[Path], object] | None) -> Callable[[Path], None]:
    def export(folder: Path) -> None:
        with written_beside(folder) as beside:
            (save or write)(beside)

    return export
