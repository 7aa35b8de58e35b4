"""From what the doctor is asked about to a model, a loss and made-up rows: the one place that knows kinds of models."""

from pathlib import Path

from sfumato import models
from sfumato.base import BadInput
from sfumato.models.bare import bare_folder, look_at
from sfumato.recipes.config import CONFIG
from sfumato.recipes.doctor_answers import answering_case, answering_folder, is_checkpoint
from sfumato.recipes.doctor_captioners import built_in_captioner, captioner_case, tokenizer_of
from sfumato.recipes.doctor_case import UNITS, Asked, Case, only
from sfumato.recipes.doctor_pictures import ENCODERS, timm_case, views_case
from sfumato.recipes.doctor_runs import run_case
from sfumato.recipes.doctor_towers import PAIR, built_in_towers, open_clip_case, packages_case, towers_case


def open_case(asked: Asked, *, room_bytes: float | None = None) -> Case:
    """Return the model that is asked about, its loss and made-up rows. No data set is touched.

    Raises:
        BadInput: a name, folder or setting that does not fit.
        Refused: a model that cannot be trained at all.
    """
    if asked.unit not in (None, *UNITS):
        raise BadInput(f"the unit is {' or '.join(UNITS)}, got {asked.unit!r}. Pairs: sfumato plan logit-dp.")
    source, _, rest = asked.model.partition(":")
    if source == "open_clip" and rest:
        return open_clip_case(asked, rest)
    if source == "timm" and rest:
        return timm_case(asked, rest)
    path = Path(asked.model)
    return _folder(asked, path, room_bytes) if path.is_dir() else _built_in(asked)


def _folder(asked: Asked, path: Path, room_bytes: float | None) -> Case:
    if (path / CONFIG).is_file():
        return run_case(asked, path)
    if is_checkpoint(path):
        return answering_case(asked, path)
    looked = look_at(path, room_bytes=room_bytes)
    if looked.kind == "words":
        return answering_folder(asked, looked)
    only(asked, "a folder", "image_size", "max_tokens")
    make = captioner_case if looked.kind == "captioner" else towers_case
    return make(asked, bare_folder(looked), tokenizer_of(asked.model))


def _built_in(asked: Asked) -> Case:
    if asked.kind in (None, "towers") and asked.model == PAIR:
        return packages_case(asked)
    if asked.kind == "towers" and asked.model in models.DUAL_SIZES:
        return built_in_towers(asked)
    if asked.kind in (None, "captioner") and asked.model in models.SIZES:
        return built_in_captioner(asked)
    if asked.kind in (None, "encoder") and asked.model in ENCODERS:
        return views_case(asked, asked.model)
    raise BadInput(
        f"{asked.model!r} is no folder, and no built-in size: a captioner ({', '.join(models.SIZES)}), with --kind "
        f"towers {' or '.join(models.DUAL_SIZES)}, with --kind encoder {', '.join(ENCODERS)}, {PAIR} (towers of "
        "packages); or give open_clip:NAME or timm:NAME."
    )
