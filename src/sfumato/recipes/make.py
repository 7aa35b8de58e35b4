"""From the settings of a run to what it trains with: sets, tokenizer, plan, model. Fails before the first step."""

import logging
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from sfumato import data, models
from sfumato.base import BadInput
from sfumato.plan import Plan
from sfumato.recipes.run import Data, Run

log = logging.getLogger(__name__)

_COUNTED = 20_000  # public captions that are looked at for the text length


@dataclass(frozen=True, kw_only=True)
class Sets:
    """What is trained on, what is held out, and combinations never trained on (shapes)."""

    train: data.Captioned
    test: data.Captioned | None
    unseen: data.Captioned | None = None


@dataclass(frozen=True, kw_only=True)
class Made:
    """Everything that training needs.

    Attributes:
        vocabulary: in words, for the card.
    """

    sets: Sets
    tokenizer: models.Tokenizer
    preprocess: data.Preprocess
    rows: data.PairRows
    plan: Plan
    started: models.Started
    max_tokens: int
    vocabulary: str


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
        image_size=image_size if kind == "shapes" else 64,
        scenes=settings.scenes,
    )
    train = data.load(settings.spec, options=options)
    if settings.holdout:
        train, test = data.holdout(train, settings.holdout)
        return Sets(train=train, test=test)
    if not data.has_test_split(settings.spec):
        return Sets(train=train, test=None)
    if kind != "shapes":
        return Sets(train=train, test=data.load(settings.spec, split="test", options=options))
    few = {"seed": settings.seed, "image_size": image_size, "scenes": settings.scenes}
    test, unseen = (data.shapes(4000, split=split, **few) for split in ("test", "unseen"))
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
    }
    return data.Columns(**{name: value for name, value in given.items() if value is not None})


def tokenizer_of(run: Run, train: data.Captioned) -> tuple[models.Tokenizer, str]:
    """Return the tokenizer and, in words, where its vocabulary comes from.

    Raises:
        BadInput: private captions and no public vocabulary.
    """
    settings = run.model
    if settings.vocabulary:
        return models.Tokenizer.from_vocab(settings.vocabulary), f"the file {Path(settings.vocabulary).name}"
    if settings.public_text:
        path = Path(settings.public_text)
        if not path.is_file():
            raise BadInput(f"--public-text: there is no file {path}.")
        lines = path.read_text(encoding="utf-8").splitlines()
        return models.Tokenizer.from_public_text(lines), f"built from {path.name}, declared public"
    if settings.init and _has_tokenizer(Path(settings.init)) and not train.public:
        return models.Tokenizer.from_checkpoint(settings.init), "that of the checkpoint that training starts from"
    if train.public:
        if run.data.spec.partition(":")[0] == "shapes":
            return models.Tokenizer.from_public_text(data.shapes_vocabulary()), "the words of the shapes grammar"
        texts = islice(train.to_spell(), _COUNTED)
        return models.Tokenizer.from_public_text(texts), "the words of the public caption templates"
    raise BadInput(
        "the captions are private, so no vocabulary is made from them: give --vocabulary (a WordPiece vocab.txt), "
        "--public-text (a file of public sentences of the field) or --init (a checkpoint with a tokenizer)."
    )


def _has_tokenizer(folder: Path) -> bool:
    names = ("tokenizer.json", "vocab.txt")
    return any((place / name).is_file() for place in (folder, folder / "export") for name in names)


def text_length(run: Run, train: data.Captioned, tokenizer: models.Tokenizer) -> int:
    """Return the public number of text tokens, and say how many public captions it would cut.

    Raises:
        BadInput: private captions and no --max-tokens: their length is private, so the user chooses.
    """
    wanted = run.model.max_tokens
    if not train.public:
        if wanted is None:
            raise BadInput(
                "the captions are private, so their lengths are not looked at: choose --max-tokens (40 is the paper's)."
            )
        return wanted
    lengths = tokenizer.count_tokens(islice(train.to_spell(), _COUNTED))
    longest = max(lengths)
    if wanted is not None and wanted < longest:
        cut = sum(length > wanted for length in lengths)
        log.warning(
            "--max-tokens %d cuts %d of %d public captions (the longest has %d).", wanted, cut, len(lengths), longest
        )
    return wanted or longest


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
    return data.Preprocess.suited(train, run.model.image_size, **settings)


def _for_channels(values: tuple[float, ...], channels: int) -> tuple[float, ...]:
    """Constants for three colours become their average for gray pictures."""
    return (round(sum(values) / len(values), 6),) if channels == 1 else values


def make(run: Run) -> Made:
    """Make everything that the run trains with.

    Raises:
        BadInput: a setting, file or column that does not fit; before anything is spent.
    """
    sets = sets_of(run.data, run.model.image_size)
    tokenizer, vocabulary = tokenizer_of(run, sets.train)
    max_tokens = text_length(run, sets.train, tokenizer)
    preprocess = preprocess_of(run, sets.train)
    rows = data.PairRows(
        captioned=sets.train,
        preprocess=preprocess,
        encode=lambda captions: tokenizer.encode(captions, max_tokens),
        max_tokens=max_tokens,
        vary_captions=run.training.vary_captions,
    )
    plan = run.privacy.plan(sets.train.num_records)
    started = models.start(
        tokenizer=tokenizer,
        image_size=run.model.image_size,
        max_tokens=max_tokens,
        channels=run.model.channels,
        size=run.model.size,
        init=run.model.init,
        train=run.model.train,
        dropout=run.model.dropout,
        seed=run.model.seed,
    )
    if run.model.checkpointing:
        started.model.gradient_checkpointing_enable({"use_reentrant": False})
    return Made(
        sets=sets, tokenizer=tokenizer, preprocess=preprocess, rows=rows, plan=plan, started=started,
        max_tokens=max_tokens, vocabulary=vocabulary,
    )  # fmt: skip
