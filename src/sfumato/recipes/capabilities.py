"""Which settings each recipe reads: the one table. Imports no torch."""

from sfumato.base import BadInput
from sfumato.base.ranges import flag

RECIPES = {
    "dp-cap": "a captioner, clipped per example",
    "dp-clip": "two towers with a contrastive loss; the whole batch's gradient is clipped",
    "dp-gcl": "two towers with a contrastive loss; the gradients of small groups are clipped",
    "logit-dp": "a contrastive loss; the gradient of each pair's similarity is clipped",
    "dp-vqa": "questions about images with BLIP, also from scratch; clipped per record",
    "dp-vlm": "questions about images with any vision-language model of a folder, by default through LoRA",
}

_GROUPS = frozenset(("num_groups", "group_size"))
_ADAPTER = frozenset(("rank", "alpha", "targets", "frozen_dtype"))
_ANSWERS = frozenset(("model", "max_question", "max_answer", "prompt", "question", "unit"))
_CONSTANTS = frozenset(("temperature", "bias", "symmetric"))
_CONTRAST = _CONSTANTS | {"contrast", "loss", "embed_dim", "train_temperature"}
_NORMS = frozenset(("norms",))
_CLIP = frozenset(("clip", "views"))
_WORDS = frozenset(("vocabulary", "public_text", "strip_accents"))
_SIZE = frozenset(("size",))
_IMAGES = frozenset(
    ("augment", "flip", "jitter", "vary_captions", "templates", "channels", "dropout", "max_tokens", "init")
)
_SOME = _GROUPS | _ADAPTER | _ANSWERS | _CONTRAST | _NORMS | _CLIP | _WORDS | _SIZE | _IMAGES

_READS_OF_SOME = {
    "dp-cap": _IMAGES | _WORDS | _SIZE | _CLIP,
    "dp-clip": _IMAGES | _WORDS | _SIZE | _CLIP | _CONTRAST | _ADAPTER,
    "dp-gcl": _IMAGES | _WORDS | _SIZE | _CLIP | _CONTRAST | _ADAPTER | _GROUPS,
    "logit-dp": (_IMAGES | _WORDS | _SIZE | _CONTRAST | _NORMS) - {"train_temperature"},
    "dp-vqa": _WORDS | _SIZE | _CLIP | _GROUPS | _ADAPTER | _ANSWERS,
    "dp-vlm": _CLIP | _GROUPS | _ADAPTER | _ANSWERS,
}
_NOT_OF_VIEWS = _WORDS | {"max_tokens", "vary_captions", "train_temperature", "templates", "jitter"}
_CONSTANTS_OF = {
    "infonce": frozenset(("temperature", "symmetric")),
    "sigmoid": frozenset(("temperature", "bias")),
    "spread-out": frozenset(),
}


def reads(recipe: str, setting: str, kind: str | None = None) -> bool:
    """Return whether a recipe reads a setting.

    Args:
        recipe: one of `RECIPES`.
        setting: a field of the settings, or a flag of a command.
        kind: of the model, where it is known: an encoder of two views reads no words.

    >>> reads("dp-cap", "temperature"), reads("dp-clip", "temperature"), reads("dp-cap", "epsilon")
    (False, True, True)
    """
    if kind == "encoder" and setting in _NOT_OF_VIEWS:
        return False
    return setting not in _SOME or setting in _READS_OF_SOME[recipe]


def refuse_unread(recipe: str, kind: str, train: str, loss: str, given: frozenset[str]) -> None:
    """Refuse settings that were given and would be ignored.

    Args:
        recipe: one of `RECIPES`.
        kind: of the model.
        train: what trains.
        loss: its kind; read where it is a loss of similarities.
        given: names of the settings.

    Raises:
        BadInput: naming the first one, as a flag.
    """
    for name in sorted(given):
        if not reads(recipe, name, kind):
            raise BadInput(f"{recipe} of {kind} has no setting {flag(name)}: remove it.")
    if train not in ("lora", "dora"):
        for name in sorted(given & _ADAPTER):
            raise BadInput(f"{flag(name)} is a setting of --train lora and dora: leave it out.")
    for name in sorted(given & (_CONSTANTS - _CONSTANTS_OF.get(loss, _CONSTANTS))):
        raise BadInput(f"the loss {loss} has no {flag(name)}: remove it.")
