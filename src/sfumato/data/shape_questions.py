"""`shape_questions`: procedural scenes with visual questions, any number; the record is the scene.

Row r asks question r mod Q of scene r div Q; both are functions of (seed, split, r), and nothing is stored but the
numbers of the records. The pictures are those of `shapes` (groups of objects on a dark ground) and of `lone` (one
object of any size on a light ground).
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sfumato.base.errors import BadInput
from sfumato.base.seeds import derive, words
from sfumato.data import lone
from sfumato.data.ask import GROUPS, KINDS, LONE, NUM_DRAWS, ask, kinds_of
from sfumato.data.captioned import Captioned, Question, Selection
from sfumato.data.grammar import Scene
from sfumato.data.shapes import SPLITS, ShapesRows
from sfumato.data.shapes import VERSION as SHAPES_VERSION

VERSION = 1  # of questions: part of the key and of the fingerprint
ASKED_SCENES = ("mixed", "lone", "single", "pair")
SOMETIMES = ("number", "place")  # kinds of question that only some scenes answer
_PER_SCENE = 4
_PUBLIC = bytes(32)


@dataclass(frozen=True, kw_only=True)
class ShapeQuestionRows:
    """The rows of one split: scenes, pictures and questions made on demand.

    Attributes:
        seed, split, image_size: as `ShapesRows`.
        scenes: "lone", "single" or "pair"; or "mixed": half lone, the others as "mixed" of `shapes`.
        per_scene: Q, questions of each scene.
        kinds: which are asked, each at most as often as it is named; () is all, once.
    """

    seed: int
    split: str
    image_size: int
    scenes: str
    per_scene: int
    kinds: tuple[str, ...]

    @property
    def _groups(self) -> ShapesRows:
        scenes = "mixed" if self.scenes == "lone" else self.scenes
        return ShapesRows(seed=self.seed, split=self.split, image_size=self.image_size, scenes=scenes)

    def _key(self, number: int) -> bytes:
        return derive(_PUBLIC, "shape questions", VERSION, self.seed, self.split, number)

    def _is_lone(self, number: int) -> bool:
        return self.scenes == "lone" or (self.scenes == "mixed" and int(words(self._key(number), 1)[0]) % 2 == 0)

    def scene(self, number: int) -> Scene:
        """Return the attributes of scene `number`."""
        if self._is_lone(number):
            return lone.lone(self.seed, self.split, number).scene
        return self._groups.scene(number)

    def _picture(self, number: int) -> np.ndarray:
        if self._is_lone(number):
            return lone.picture(lone.lone(self.seed, self.split, number), self.image_size)
        return self._groups.read(number, None)["image"]

    def read(self, row: int, rng: np.random.Generator | None) -> dict[str, Any]:
        """Return image (S, S, 3) uint8, question, its one answer (also as caption), kind and attributes."""
        number, asked = row // self.per_scene, self.asked(row)
        told = {"caption": asked.answers[0], "label": None, "attributes": self.scene(number)}
        return {"image": self._picture(number), **told, **asked._asdict()}

    def asked(self, row: int) -> Question:
        """Return the question of a row without painting its picture."""
        number, place = divmod(row, self.per_scene)
        scene, palette = self.scene(number), LONE if self._is_lone(number) else GROUPS
        times = Counter(self.kinds or KINDS)
        kinds = [kind for kind in kinds_of(scene, palette) for _ in range(times[kind])]
        draw = words(derive(self._key(number), "asked"), len(kinds) + NUM_DRAWS * self.per_scene)
        kind = kinds[np.argsort(draw[: len(kinds)], kind="stable")[place]]
        start = len(kinds) + NUM_DRAWS * place
        question, answer = ask(scene, palette, kind, draw[start : start + NUM_DRAWS].tolist())
        return Question(question, (answer,), kind)

    def captions_of(self, row: int) -> tuple[str, ...]:
        """Return the one answer of the row."""
        return self.asked(row).answers

    def texts(self, rows: Selection) -> Iterator[str]:
        """Yield the answer of each row."""
        return (self.asked(int(row)).answers[0] for row in rows)

    def labels(self, rows: Selection) -> np.ndarray | None:
        """Questions have no classes."""
        return None

    def file(self, row: int) -> str | None:
        """Scenes are no files."""
        return None


def shape_questions(
    num: int,
    seed: int = 0,
    *,
    split: str = "train",
    image_size: int = 64,
    scenes: str = "mixed",
    per_scene: int | None = None,
    kinds: Sequence[str] = (),
) -> Captioned:
    """Return `per_scene` visual questions of each of `num` procedural scenes: public; the record is the scene.

    Their phrasings are none of easy-VQA's (see `ask`); scenes "lone" show what its pictures show, and more: ten colours
    (its eight, purple, orange) and six shapes (its three, diamond, cross, ring).

    Args:
        num: number of scenes, N.
        seed: public number.
        split: "train", "test", or "unseen": held-out combinations of colour and shape only.
        image_size: pixels per side, at least 16.
        scenes: "mixed", "lone" (one object of any size anywhere on a light ground), "single" or "pair".
        per_scene: questions of a scene, each of another entry of `kinds`; None: four, or as many as `kinds` allows.
        kinds: of question: "color", "shape", "size", "number", "place", "has color", "has shape", "has object", "lacks
            color", "lacks shape"; () is all, and a kind that is named twice may be asked twice of a scene. A lone
            object has no number, and only a pair a place.

    Raises:
        BadInput: a setting outside these.
    """
    if num < 1:
        raise BadInput(f"shape-questions needs at least one scene, got {num}.")
    for what, value, known in (("splits", split, SPLITS), ("scenes", scenes, ASKED_SCENES)):
        if value not in known:
            raise BadInput(f"shape-questions has the {what} {', '.join(known)}, not '{value}'.")
    if image_size < 16:
        raise BadInput(f"shape-questions needs image_size >= 16, got {image_size}.")
    asked = _per_scene(per_scene, kinds)
    settings = {"seed": seed, "split": split, "image_size": image_size, "scenes": scenes}
    settings |= {"per_scene": asked, "kinds": tuple(kinds)}
    versions = {"version": VERSION, "shapes": SHAPES_VERSION, "lone": lone.VERSION}
    return Captioned(
        name=f"shape-questions ({split})",
        rows=ShapeQuestionRows(**settings),
        selection=range(num * asked),
        facts={"kind": "shape-questions", **versions, **settings},
        public=True,
        augment="none",
        owner_codes=np.repeat(np.arange(num), asked),
        # the same whatever the other settings: one number may show one scene under several of them
        owner_names=tuple(f"shapes {seed} {split} {number}" for number in range(num)),
    )


def _per_scene(per_scene: int | None, kinds: Sequence[str]) -> int:
    """Return how many questions a scene is asked."""
    if unknown := [kind for kind in kinds if kind not in KINDS]:
        raise BadInput(f"shape-questions has the kinds {', '.join(KINDS)}, not '{unknown[0]}'.")
    most = sum(kind not in SOMETIMES for kind in kinds or KINDS)
    if not most:
        raise BadInput(f"not every scene answers {' or '.join(kinds)}: ask one more kind of shape-questions.")
    asked = min(_PER_SCENE, most) if per_scene is None else per_scene
    if not 1 <= asked <= most:
        raise BadInput(f"shape-questions of these kinds asks 1 to {most} of a scene, got per_scene {per_scene}.")
    return asked
