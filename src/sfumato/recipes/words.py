"""The words of a run: its vocabulary and its text length, both public, never made from private captions."""

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from sfumato import data, models
from sfumato.base import BadInput
from sfumato.base.texts import read_text
from sfumato.recipes.run import Run

log = logging.getLogger(__name__)

_COUNTED = 20_000  # public captions that are looked at for the text length


@dataclass(frozen=True, kw_only=True)
class Words:
    """A tokenizer, the public length of a text in tokens, and in words where the vocabulary comes from."""

    tokenizer: models.Tokenizer
    max_tokens: int
    vocabulary: str

    def __str__(self) -> str:
        return f"text length {self.max_tokens}; vocabulary {self.tokenizer.vocab_size:,} ({self.vocabulary})"


def words_of(run: Run, train: data.Captioned, *, of_towers: bool = False) -> Words:
    """Return the words of a run.

    Args:
        run: its settings of the model.
        train: the set that is trained on.
        of_towers: texts have a start token too, which counts.

    Raises:
        BadInput: private captions, and no public vocabulary or no --max-tokens.
    """
    tokenizer, vocabulary = tokenizer_of(run, train)
    return Words(
        tokenizer=tokenizer,
        max_tokens=text_length(run, train, tokenizer, more=1 if of_towers else 0),
        vocabulary=vocabulary,
    )


def tokenizer_of(run: Run, train: data.Captioned) -> tuple[models.Tokenizer, str]:
    """Return the tokenizer and, in words, where its vocabulary comes from.

    Raises:
        BadInput: private captions and no public vocabulary.
    """
    settings = run.model
    if settings.vocabulary:
        return models.Tokenizer.from_vocab(
            settings.vocabulary, settings.strip_accents
        ), f"the file {Path(settings.vocabulary).name}"
    if settings.public_text:
        path = Path(settings.public_text)
        lines = read_text(path, "--public-text").splitlines()
        if not any(line.strip() for line in lines):
            raise BadInput(f"--public-text: {path} holds no text.")
        return _built(lines, run), f"built from {path.name}, declared public"
    if settings.init and _has_tokenizer(Path(settings.init)) and not train.public:
        check_own_words(run)
        return models.Tokenizer.from_checkpoint(settings.init), "that of the checkpoint that training starts from"
    if train.public:
        if run.data.spec.partition(":")[0] == "shapes":
            return _built(data.shapes_vocabulary(), run), "the words of the shapes grammar"
        texts = islice(train.to_spell(), _COUNTED)
        return _built(texts, run), "the words of the public caption templates"
    texts, start = ("questions and answers", "--model") if train.has_questions else ("captions", "--init")
    raise BadInput(
        f"the {texts} are private, so no vocabulary is made from them: give --vocabulary (a WordPiece vocab.txt), "
        f"--public-text (a file of public sentences of the field) or {start} (a checkpoint with a tokenizer)."
    )


def check_own_words(run: Run) -> None:
    """Raise BadInput where marks are to be stripped from the words of a checkpoint, which has its own rules."""
    if run.model.strip_accents is not None:
        raise BadInput("a checkpoint brings its own rules for words: leave out --strip-accents.")


def _built(texts: Iterable[str], run: Run) -> models.Tokenizer:
    return models.Tokenizer.from_public_text(texts, strip_accents=run.model.strip_accents or False)


def _has_tokenizer(folder: Path) -> bool:
    names = ("tokenizer.json", "vocab.txt")
    return any((place / name).is_file() for place in (folder, folder / "export") for name in names)


def text_length(run: Run, train: data.Captioned, tokenizer: models.Tokenizer, more: int = 0) -> int:
    """Return the public number of text tokens, and say how many public captions it would cut.

    Args:
        run, train, tokenizer: as in `words_of`.
        more: tokens besides the caption's words and its end.

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
    unknown = tokenizer.count_unknown(islice(train.to_spell(), _COUNTED))
    if unknown:
        log.warning("%d public captions hold characters or marks that the vocabulary does not spell.", unknown)
    lengths = tokenizer.count_tokens(islice(train.to_spell(), _COUNTED))
    lengths = [length + more for length in lengths]
    longest = max(lengths)
    if wanted is not None and wanted < longest:
        cut = sum(length > wanted for length in lengths)
        log.warning(
            "--max-tokens %d cuts %d of %d public captions (the longest has %d).", wanted, cut, len(lengths), longest
        )
    return wanted or longest
