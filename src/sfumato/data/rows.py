"""Rows of a checked table: captions, questions and labels in memory, pictures read when asked for."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from sfumato.data.captioned import Captioned, Question, Selection, digest_of
from sfumato.data.decode import Decoder
from sfumato.data.formats import Source


class Pictures(Protocol):
    """Where the pictures of a table lie."""

    def source(self, row: int) -> Source:
        """Return path or bytes of a row's picture. Raises UndecodableRow where there is none."""
        ...

    def file(self, row: int) -> str | None:
        """Return the path of a row's picture, or another name of that picture alone; None where it has none."""
        ...


@dataclass(frozen=True, kw_only=True, eq=False)
class TableRows:
    """Pictures, captions and labels by row number.

    Attributes:
        pictures: where the pictures lie.
        texts_of: captions of each row, the fixed one first.
        numbers: class numbers, int64, or None.
        decoder: how files become arrays.
    """

    pictures: Pictures
    texts_of: list[tuple[str, ...]] = field(repr=False)
    numbers: np.ndarray | None = field(repr=False)
    decoder: Decoder

    def read(self, row: int, rng: np.random.Generator | None) -> dict[str, Any]:
        """Return the decoded picture, its caption (drawn from `rng`, else the first) and label."""
        choice = self.texts_of[row]
        caption = choice[0] if rng is None or len(choice) == 1 else choice[int(rng.integers(len(choice)))]
        label = None if self.numbers is None else int(self.numbers[row])
        image = self.decoder(self.pictures.source(row))
        return {"image": image, "caption": caption, "label": label, "attributes": None}

    def captions_of(self, row: int) -> tuple[str, ...]:
        """Return the captions of the row, the fixed one first."""
        return self.texts_of[row]

    def texts(self, rows: Selection) -> Iterator[str]:
        """Yield every caption of each row."""
        return (text for row in rows for text in self.texts_of[int(row)])

    def labels(self, rows: Selection) -> np.ndarray | None:
        """Return class numbers, int64, or None."""
        return None if self.numbers is None else self.numbers[np.asarray(rows, np.int64)]

    def file(self, row: int) -> str | None:
        """Return the path of the row's picture, or None."""
        return self.pictures.file(row)


@dataclass(frozen=True, kw_only=True, eq=False)
class QuestionRows:
    """Visual questions by row number: rows of a table whose captions are the answers.

    Attributes:
        table: pictures and answers, the commonest answer first.
        questions: question of each row.
        kinds: type of each question, or None.
        answer_types: type of each answer as the source says it (None where it does not), or None.
    """

    table: TableRows
    questions: list[str] = field(repr=False)
    kinds: list[str] | None = field(repr=False)
    answer_types: list[str | None] | None = field(default=None, repr=False)

    def read(self, row: int, rng: np.random.Generator | None) -> dict[str, Any]:
        """Return the table's row, its caption one of the answers (by `rng`, else the commonest), and what is asked."""
        return {**self.table.read(row, rng), **self.asked(row)._asdict()}

    def asked(self, row: int) -> Question:
        """Return the question of a row without reading its picture."""
        kind = None if self.kinds is None else self.kinds[row]
        answer_type = None if self.answer_types is None else self.answer_types[row]
        return Question(self.questions[row], self.table.captions_of(row), kind, answer_type)

    def captions_of(self, row: int) -> tuple[str, ...]:
        """Return all human answers of the row, the commonest first; one given by several stands several times."""
        return self.table.captions_of(row)

    def texts(self, rows: Selection) -> Iterator[str]:
        """Yield every answer of each row."""
        return self.table.texts(rows)

    def labels(self, rows: Selection) -> np.ndarray | None:
        """Return class numbers of the pictures, int64, or None."""
        return self.table.labels(rows)

    def file(self, row: int) -> str | None:
        """Return the path of the row's picture, or None."""
        return self.table.file(row)


def tabled(
    *,
    name: str,
    kind: str,
    pictures: Pictures,
    texts: list[tuple[str, ...]],
    owners: Sequence[str] | None,
    labels: Sequence[str] | None,
    decoder: Decoder,
    facts: dict[str, Any],
    public: bool,
    questions: list[str] | None = None,
    kinds: list[str] | None = None,
    answer_types: list[str | None] | None = None,
    picture_owned: bool = False,
    augment: str = "crop",
) -> Captioned:
    """Return the Captioned of a checked table: owners and labels become numbers, everything becomes a digest.

    With `questions` (and their `kinds` and `answer_types`) the texts are answers, and the rows are visual questions.
    """
    owner_codes, owner_names = _numbered(owners)
    label_codes, class_names = _numbered(labels)
    table = TableRows(pictures=pictures, texts_of=texts, numbers=label_codes, decoder=decoder)
    asked, rows = {}, table
    if questions is not None:
        asked = {"questions": digest_of(questions), "kinds": kinds and digest_of(kinds)}
        rows = QuestionRows(table=table, questions=questions, kinds=kinds, answer_types=answer_types)
    return Captioned(
        name=name,
        rows=rows,
        selection=range(len(texts)),
        facts={
            "kind": kind,
            **facts,
            "captions": digest_of(text for choice in texts for text in (str(len(choice)), *choice)),
            "owners": None if owners is None else digest_of(owners),
            "labels": None if labels is None else digest_of(labels),
            "decoder": decoder.to_dict(),
            **asked,
        },
        public=public,
        class_names=None if labels is None else class_names,
        augment=augment,
        owner_codes=owner_codes,
        owner_names=owner_names,
        picture_owned=picture_owned,
    )


def _numbered(names: Sequence[str] | None) -> tuple[np.ndarray | None, tuple[str, ...]]:
    """Return the number of each name among the sorted distinct names, int64, and these."""
    if names is None:
        return None, ()
    distinct = sorted(set(names))
    number_of = {name: number for number, name in enumerate(distinct)}
    return np.fromiter((number_of[name] for name in names), np.int64, len(names)), tuple(distinct)
