"""What every captioned set looks like, whatever it was read from.

A `Captioned` is a selection of the rows of one source. Records are owners: where a source names owners, record i is
owner i with all its rows; otherwise each row is its own record. Nothing here drops, filters or counts rows by content,
because the number of records is a public constant of the privacy proof.

Legend: N records, R rows.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple, Protocol

import numpy as np

from sfumato.base.errors import BadInput, Refused, UndecodableRow

Selection = range | np.ndarray


class Rows(Protocol):
    """The rows of one source: immutable, picklable, addressed by a number that never changes."""

    def read(self, row: int, rng: np.random.Generator | None) -> dict[str, Any]:
        """Return image, caption, label, attributes of a row; what is drawn is drawn from `rng`, None meaning fixed."""
        ...

    def captions_of(self, row: int) -> tuple[str, ...]:
        """Return the captions of a row, the fixed one first."""
        ...

    def texts(self, rows: Selection) -> Iterator[str]:
        """Yield every caption that the rows can give."""
        ...

    def labels(self, rows: Selection) -> np.ndarray | None:
        """Return the class number of each row, int64 (len(rows),), or None where the source has no classes."""
        ...

    def file(self, row: int) -> str | None:
        """Return the real path of a row's picture, or another name of that picture alone; None where it has none."""
        ...


class Question(NamedTuple):
    """A visual question: its text, all human answers (the commonest first), its type, and its answer's, for tables.

    The answer's type is what the source says it is ("yes/no", "number", "other" of VQA2.0), or None.
    """

    question: str
    answers: tuple[str, ...]
    kind: str | None
    answer_type: str | None = None


class AskingRows(Rows, Protocol):
    """Rows that are visual questions: `read` also returns what `asked` says; the captions are the answers."""

    def asked(self, row: int) -> Question:
        """Return the question of a row without reading its picture."""
        ...


@dataclass(frozen=True, kw_only=True, eq=False)
class Captioned:
    """Pictures with captions, by row number.

    Attributes:
        name: what messages and cards call the set.
        rows: the source.
        selection: which rows of the source belong to this set, in order.
        facts: what a fingerprint needs of the source (kind, sizes, hashes), as JSON values; never contents.
        public: whether the user declares pictures and captions to be public. Vocabularies may be built from, and
            reports may show, public sets only.
        class_names: name of each label.
        class_captions: one fixed public caption per label, for zero-shot classification by caption likelihood.
        augment: the strongest augmentation that keeps captions true: "crop", "shift" or "none" (see `Preprocess`).
        flip: whether a mirrored picture still fits its caption; false unless declared.
        owner_codes: (rows of the source,) number of each row's owner, or None where a row is its own record.
        owner_names: name of each owner number; never printed.
        picture_owned: the owners are the picture files themselves. Two sets then share an owner exactly if they share
            a file: equal names in two folders are not the same picture.
    """

    name: str
    rows: Rows
    selection: Selection
    facts: Mapping[str, Any]
    public: bool = False
    class_names: tuple[str, ...] | None = None
    class_captions: tuple[str, ...] | None = None
    augment: str = "crop"
    flip: bool = False
    owner_codes: np.ndarray | None = field(default=None, repr=False)
    owner_names: tuple[str, ...] = field(default=(), repr=False)
    picture_owned: bool = False

    def __len__(self) -> int:
        return len(self.selection)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Return row `index` with its fixed caption: no randomness. Raises UndecodableRow."""
        return self._read(index, None)

    def draw(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
        """Return row `index`; where it has several captions, one drawn from `rng`.

        Returns:
            image: (H, W, 1) or (H, W, 3), uint8, or float32 in [0, 255] where the file is deeper than 8 bits;
            caption: str; label: int or None; attributes: dict or None. Of visual questions also question: str;
            answers: tuple of str, all human answers, of which `caption` is one; kind and answer_type: str or None.

        Raises:
            UndecodableRow: the picture cannot be read. The message holds nothing of the row.
        """
        return self._read(index, rng)

    def captions_of(self, index: int) -> tuple[str, ...]:
        """Return every caption of row `index`, the fixed one first: as private as the row."""
        return self.rows.captions_of(self._row(index))

    @property
    def has_questions(self) -> bool:
        """Whether the rows are visual questions (`AskingRows`)."""
        return hasattr(self.rows, "asked")

    def asked(self, index: int) -> Question:
        """Return question, answers and types of row `index` without reading its picture: as private as the row.

        Raises BadInput where the rows are no questions.
        """
        if not self.has_questions:
            raise BadInput(
                f"'{self.name}' has captions, not questions: of a table name the columns with --question-column and "
                "--answer-column."
            )
        rows: Any = self.rows
        return rows.asked(self._row(index))

    def _row(self, index: int) -> int:
        if not 0 <= index < len(self):
            raise IndexError(f"{self.name} has {len(self)} rows; asked for number {index}.")
        return int(self.selection[index])

    def _read(self, index: int, rng: np.random.Generator | None) -> dict[str, Any]:
        row = self._row(index)
        try:
            return self.rows.read(row, rng)
        except BadInput as error:  # found too late to be the user's mistake: in training it must not stop the run
            raise UndecodableRow(str(error)) from None

    @cached_property
    def labels(self) -> np.ndarray | None:
        """The class number of each row, int64 (R,), or None."""
        return self.rows.labels(self.selection)

    @cached_property
    def owners(self) -> list[np.ndarray] | None:
        """For each record its row numbers, ascending; None where a row is its own record.

        The order of the records is that of the first row of each. N is `len(owners)`.
        """
        if self.owner_codes is None:
            return None
        codes = self.owner_codes[np.asarray(self.selection, np.int64)]
        _, first, inverse = np.unique(codes, return_index=True, return_inverse=True)
        place = np.empty(len(first), np.int64)
        place[np.argsort(first)] = np.arange(len(first))
        record = place[inverse]
        order = np.argsort(record, kind="stable")
        return np.split(order, np.flatnonzero(np.diff(record[order])) + 1)

    @property
    def num_records(self) -> int:
        """N: owners where the source names them, rows otherwise."""
        return len(self) if self.owners is None else len(self.owners)

    def captions(self) -> Iterator[str]:
        """Yield every caption of the set. Raises Refused unless the set is declared public."""
        if not self.public:
            raise Refused(
                f"captions of '{self.name}' are private: a vocabulary or a count made from them would be an "
                "unaccounted look. Use declared public text, or declare the set public."
            )
        return self.rows.texts(self.selection)

    def to_spell(self) -> Iterator[str]:
        """Yield every caption of the set, then those of its classes that no row has; of questions each with answers.

        It is what a vocabulary must spell. Raises Refused as `captions`.
        """
        captions = self.captions()
        return self._with_questions() if self.has_questions else self._with_classes(captions)

    def _with_questions(self) -> Iterator[str]:
        for index in range(len(self)):
            asked = self.asked(index)
            yield from (asked.question, *dict.fromkeys(asked.answers))

    def _with_classes(self, captions: Iterator[str]) -> Iterator[str]:
        of_classes = dict.fromkeys(self.class_captions or ())
        for text in captions:
            of_classes.pop(text, None)
            yield text
        yield from of_classes

    def manifest(self) -> dict[str, Any]:
        """Return what identifies the set in a fingerprint, as JSON values: no caption, file or owner name."""
        chosen = self.selection
        if isinstance(chosen, range):
            picked: Any = [chosen.start, chosen.stop, chosen.step]
        else:
            picked = digest_of([np.ascontiguousarray(chosen, np.int64).tobytes()])
        return {**self.facts, "name": self.name, "num_rows": len(self), "selection": picked, "public": self.public}

    def select(self, indices: Sequence[int] | np.ndarray | range, *, name: str | None = None) -> "Captioned":
        """Return the set of the given rows, in the given order."""
        if isinstance(indices, range) and isinstance(self.selection, range):
            chosen: Selection = self.selection[indices.start : indices.stop : indices.step]
        else:
            chosen = np.asarray(self.selection, np.int64)[np.asarray(indices, np.int64)]
        return replace(self, selection=chosen, name=name or self.name)


def digest_of(parts: Sequence[bytes | str] | Iterator[bytes | str]) -> str:
    """Return the BLAKE2b-256 of a sequence of strings, length-prefixed, in hexadecimal.

    >>> digest_of(["ab", "c"]) == digest_of(["a", "bc"])
    False
    """
    digest = hashlib.blake2b(digest_size=32)
    for part in parts:
        raw = part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part
        digest.update(len(raw).to_bytes(8, "big") + raw)
    return digest.hexdigest()
