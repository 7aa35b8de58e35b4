"""Labelled pictures in memory, captioned by public templates: what Fashion-MNIST, MNIST and CIFAR have in common.

Legend: R rows, H and W of a picture, K classes.
"""

import string
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sfumato.base.errors import BadInput
from sfumato.data.captioned import Captioned, Selection, digest_of

Sentences = tuple[tuple[str, ...], ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class TemplateRows:
    """Labelled pictures in memory; the caption is one of a few templates.

    Attributes:
        images: (R, H, W) or (R, H, W, 3) uint8.
        numbers: (R,) int64 class numbers.
        sentences: for each class its captions, the fixed one first.
        coarse: (R,) int64 labels where these are not the classes of the captions; otherwise None.
    """

    images: np.ndarray = field(repr=False)
    numbers: np.ndarray = field(repr=False)
    sentences: Sentences
    coarse: np.ndarray | None = field(default=None, repr=False)

    def read(self, row: int, rng: np.random.Generator | None) -> dict[str, Any]:
        """Return image (H, W, 1 or 3) uint8, caption (drawn from `rng`, else the fixed one) and label."""
        choice = self.captions_of(row)
        caption = choice[0] if rng is None else choice[int(rng.integers(len(choice)))]
        image = self.images[row]
        image = image[:, :, None] if image.ndim == 2 else np.ascontiguousarray(image)
        return {"image": image, "caption": caption, "label": int(self._labels[row]), "attributes": None}

    def captions_of(self, row: int) -> tuple[str, ...]:
        """Return the captions of the row's class, the fixed one first."""
        return self.sentences[int(self.numbers[row])]

    def texts(self, rows: Selection) -> Iterator[str]:
        """Yield every caption of every class: templates do not depend on the rows."""
        return (sentence for choice in self.sentences for sentence in choice)

    def labels(self, rows: Selection) -> np.ndarray | None:
        """Return class numbers, int64."""
        return self._labels[np.asarray(rows, np.int64)]

    def file(self, row: int) -> str | None:
        """The rows share one file."""
        return None

    @property
    def _labels(self) -> np.ndarray:
        return self.numbers if self.coarse is None else self.coarse


def sentence(template: str, label: str) -> str:
    """Return a template with a label and its article.

    >>> sentence("a photo of {a} {label}", "ankle boot")
    'a photo of an ankle boot'
    """
    return template.format(label=label, a="an" if label[0] in "aeiou" else "a")


def filled(templates: Sequence[str], names: Sequence[str]) -> Sentences:
    """Return for each class name every template filled with it.

    Raises:
        BadInput: no template; one without {label}, or with a blank that is neither {label} nor {a} (its article).
    """
    if isinstance(templates, str) or not templates:
        raise BadInput(f"caption templates must be a list of at least one, got {templates!r}.")
    for template in templates:
        if not _is_template(template):
            raise BadInput(f"caption template '{template}' must hold {{label}}, and may hold {{a}} for its article.")
    return tuple(tuple(sentence(template, name) for template in templates) for name in names)


def _is_template(template: str) -> bool:
    try:
        blanks = [name for _, name, _, _ in string.Formatter().parse(template) if name is not None]
    except ValueError:
        return False
    return "label" in blanks and set(blanks) <= {"label", "a"}


def labelled(
    *,
    name: str,
    split: str,
    images: np.ndarray,
    numbers: np.ndarray,
    class_names: tuple[str, ...],
    templates: Sequence[str],
    digests: dict[str, str],
    augment: str,
    flip: bool,
) -> Captioned:
    """Return public labelled pictures as a Captioned, every row its own record.

    Args:
        name: of the set; also its kind in the fingerprint.
        split: for name and fingerprint.
        images, numbers: as `TemplateRows`.
        class_names: K names.
        templates: caption templates, the fixed one of evaluation first.
        digests: hashes of the files, for the fingerprint.
        augment, flip: as `Captioned`.
    """
    sentences = filled(templates, class_names)
    return Captioned(
        name=f"{name} ({split})",
        rows=TemplateRows(images=images, numbers=numbers, sentences=sentences),
        selection=range(len(images)),
        facts={
            "kind": name,
            "split": split,
            **digests,
            "captions": digest_of([text for choice in sentences for text in choice]),
        },
        public=True,
        class_names=class_names,
        class_captions=tuple(choice[0] for choice in sentences),
        augment=augment,
        flip=flip,
    )
