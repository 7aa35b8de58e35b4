"""The pictures of a run: which are trained on, which are held out, and how they are cut and normalised."""

from dataclasses import dataclass
from typing import Any

from sfumato import data
from sfumato.recipes.run import Data, Run

_SCENES = ("shapes", "shape-questions")


@dataclass(frozen=True, kw_only=True)
class Sets:
    """What is trained on, what is held out, and combinations never trained on (shapes)."""

    train: data.Captioned
    test: data.Captioned | None
    unseen: data.Captioned | None = None


def sets_of(settings: Data, image_size: int) -> Sets:
    """Load the sets of a run.

    Raises:
        BadInput: files, columns, captions or splits that do not fit; the message names them.
    """
    kind = settings.spec.partition(":")[0]
    options = data.Options(
        captions=settings.captions,
        columns=_columns(settings),
        decoder=decoder_of(settings),
        missing=settings.missing,
        public=settings.public,
        num=settings.num,
        seed=settings.seed,
        image_size=image_size if kind in _SCENES else 64,
        scenes=settings.scenes,
        kinds=settings.kinds,
        templates=settings.templates,
        coarse=settings.coarse,
    )
    train = data.load(settings.spec, options=options)
    if settings.holdout:
        train, test = data.holdout(train, settings.holdout)
        return Sets(train=train, test=test)
    if not data.has_test_split(settings.spec):
        return Sets(train=train, test=None)
    if kind not in _SCENES:
        test = data.load(settings.spec, split="test", options=options)
        data.check_disjoint(train, test)
        return Sets(train=train, test=test)
    few = {"seed": settings.seed, "image_size": image_size, "scenes": settings.scenes}
    if kind == "shapes":
        test, unseen = (data.shapes(4000, split=split, **few) for split in ("test", "unseen"))
    else:
        kinds = settings.kinds
        test, unseen = (data.shape_questions(1000, split=split, kinds=kinds, **few) for split in ("test", "unseen"))
    return Sets(train=train, test=test, unseen=unseen)


def decoder_of(settings: Data) -> data.Decoder:
    """Return how the run's picture files become arrays."""
    given = {"window": settings.window, "max_pixels": settings.max_pixels}
    return data.Decoder(**{name: value for name, value in given.items() if value is not None})  # pyright: ignore[reportArgumentType]


def _columns(settings: Data) -> data.Columns:
    given = {
        "image": settings.image_column,
        "caption": settings.caption_column,
        "owner": settings.owner_column,
        "label": settings.label_column,
        "question": settings.question_column,
        "answer": settings.answer_column,
        "kind": settings.kind_column,
    }
    return data.Columns(**{name: value for name, value in given.items() if value is not None})


def preprocess_of(run: Run, train: data.Captioned) -> data.Preprocess:
    """Return the run's augmentation and normalisation; flips only where the set declares them safe or the user does."""
    settings: dict[str, Any] = {
        "channels": run.model.channels,
        "mean": _for_channels(run.training.mean, run.model.channels),
        "std": _for_channels(run.training.std, run.model.channels),
        "scale": run.training.crop_scale,
    }
    if run.training.augment is not None:
        settings["augment"] = run.training.augment
    if run.training.flip is not None:
        settings["flip"] = run.training.flip
    if run.model.kind == "encoder" and run.training.augment is None:
        settings["augment"] = "crop"  # no caption goes with a view, so none can become false
    return data.Preprocess.suited(train, run.model.image_size, **settings)


def _for_channels(values: tuple[float, ...], channels: int) -> tuple[float, ...]:
    """Constants for three colours become their average for gray pictures."""
    return (round(sum(values) / len(values), 6),) if channels == 1 else values
