"""What a generated caption says about a scene of `shapes`: colour, shape, size, count, relation, each counted apart.

Captions are read leniently, word by word, so that one grammatical slip does not hide the words that are right; how many
captions are sentences of the grammar, and how many tell the whole scene, is counted strictly beside.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sfumato.base import BadInput
from sfumato.data import grammar
from sfumato.evaluate.accuracy import Accuracy, counted

KINDS = ("colour", "shape", "size", "count")
NUM_GUESSES = 10_000  # at least, that chance is estimated from: within one percent
Scene = grammar.Scene


def _noun(shape: str, count: int) -> str:
    """Return the noun as the grammar writes it: the last word of its own sentence."""
    group = {"count": count, "size": grammar.SIZES[0], "colour": next(iter(grammar.COLOURS)), "shape": shape}
    return grammar.caption({"groups": (group,), "relation": None}).split()[-1]


_WORDS: dict[str, dict[str, Any]] = {
    "colour": {word: word for word in grammar.COLOURS},
    "shape": {_noun(shape, count): shape for shape in grammar.SHAPES for count in (1, 2)},
    "size": {word: word for word in grammar.SIZES},
    "count": {word: place + 1 for place, word in enumerate(grammar.COUNTS)},
}
_CODES = {kind: {value: code for code, value in enumerate(dict.fromkeys(_WORDS[kind].values()))} for kind in KINDS}


def read_caption(text: str) -> Scene:
    """Return what a caption names, in the form of a scene; what it does not name is None.

    The text is cut at the first relation; of each side the first word of each kind counts. A sentence of the grammar
    gives the scene that `grammar.parse_caption` gives.

    >>> read_caption("red squares below a blue ring")["groups"][0]
    {'colour': 'red', 'shape': 'square', 'size': None, 'count': None}
    """
    spaced = f" {' '.join(text.lower().replace('.', ' ').split())} "
    places = {relation: spaced.find(f" {relation} ") for relation in grammar.RELATIONS}
    named = [relation for relation, place in places.items() if place >= 0]
    if not named:
        return {"groups": (_read_group(spaced),), "relation": None}
    relation = min(named, key=lambda relation: places[relation])
    before, after = spaced.split(f" {relation} ", 1)
    return {"groups": (_read_group(before), _read_group(after)), "relation": relation}


def _read_group(text: str) -> dict[str, Any]:
    tokens = text.split()
    return {kind: next((_WORDS[kind][word] for word in tokens if word in _WORDS[kind]), None) for kind in KINDS}


def attribute_accuracy(captions: Sequence[str], scenes: Sequence[Scene], *, seed: int = 0) -> dict[str, Accuracy]:
    """Count what captions say rightly about their scenes.

    Both are told from the upper or left group. Where there are two groups on a side, they are paired so that the most
    words agree, which leaves a wrong order to be seen in the relation only. Every group of the scene counts; a word
    that the caption lacks counts as wrong.

    Chance is the larger of two ways of guessing without looking, each estimated from `NUM_GUESSES` guesses:
    words drawn independently of each other as often as they occur in these scenes, and the true caption of another
    picture of the set. On a set of few combinations the second is the larger.

    Args:
        captions: N generated texts.
        scenes: N scenes, the `attributes` of the rows.
        seed: of the guesses.

    Returns:
        colour, shape, size, count (one answer per group of the scene); combination (colour and shape of a group);
        relation (one per scene that has one); num_groups and scene (one per picture; scene: the sentence is in the
        grammar and means the whole scene); grammatical (one per picture, no chance). What has no answer is left out.

    Raises:
        BadInput: the two lengths differ or are 0.
    """
    if len(captions) != len(scenes) or not scenes:
        raise BadInput(f"{len(captions)} captions and {len(scenes)} scenes: want the same number, >= 1.")
    truth = _coded([grammar.canonical(scene) for scene in scenes])
    said = _coded([grammar.canonical(read_caption(text)) for text in captions])
    parsed = [grammar.parse_caption(text) for text in captions]
    right = _right(said, truth)
    # strictly: a sentence of the grammar, and no other than a true one
    right["scene"] &= np.array([other is not None for other in parsed])
    chance = _chance(truth, np.random.default_rng([seed, len(scenes)]))
    result = {name: counted(correct, chance[name]) for name, correct in right.items() if len(correct)}
    result["grammatical"] = counted(np.array([other is not None for other in parsed]))
    return result


@dataclass(frozen=True, kw_only=True)
class _Coded:
    """Canonical scenes as numbers: words (N, 2 groups, 4 kinds) and relation (N,); -1 where there is none."""

    words: np.ndarray
    relation: np.ndarray

    def __getitem__(self, rows: np.ndarray) -> "_Coded":
        return _Coded(words=self.words[rows], relation=self.relation[rows])

    @property
    def exists(self) -> np.ndarray:
        """(N, 2) bool: which groups there are; a group that names nothing is none."""
        return np.any(self.words >= 0, axis=2)


def _coded(scenes: Sequence[Scene]) -> _Coded:
    words = np.full((len(scenes), 2, len(KINDS)), -1)
    for row, scene in enumerate(scenes):
        for place, group in enumerate(scene["groups"]):
            words[row, place] = [_CODES[kind].get(group[kind], -1) for kind in KINDS]
    relation = [grammar.RELATIONS.index(scene["relation"]) if scene["relation"] else -1 for scene in scenes]
    return _Coded(words=words, relation=np.array(relation))


def _right(said: _Coded, truth: _Coded) -> dict[str, np.ndarray]:
    """Return for each attribute the answers, true where right."""
    asked = truth.exists
    straight = (said.words == truth.words) & asked[:, :, None]  # (N, 2 groups, 4 kinds)
    crossed = (said.words[:, ::-1] == truth.words) & asked[:, :, None]
    swapped = crossed.sum((1, 2)) > straight.sum((1, 2))
    agreed = np.where(swapped[:, None, None], crossed, straight)
    pair = truth.relation >= 0
    right = {kind: agreed[:, :, place][asked] for place, kind in enumerate(KINDS)}
    right["combination"] = (agreed[:, :, KINDS.index("colour")] & agreed[:, :, KINDS.index("shape")])[asked]
    right["relation"] = ((said.relation == truth.relation) & ~swapped)[pair]
    right["num_groups"] = said.exists.sum(1) == asked.sum(1)
    right["scene"] = (said.words == truth.words).all((1, 2)) & (said.relation == truth.relation)
    return right


def _chance(truth: _Coded, rng: np.random.Generator) -> dict[str, float]:
    """Return for each attribute the better of guessing words independently and guessing another true caption."""
    size = len(truth.relation)
    asked = np.tile(np.arange(size), math.ceil(NUM_GUESSES / size))
    borrowed = truth[rng.integers(size, size=len(asked))]
    pool = truth.words[truth.exists]  # (groups of all scenes, 4 kinds)
    words = np.stack([rng.choice(pool[:, kind], borrowed.words.shape[:2]) for kind in range(len(KINDS))], axis=2)
    independent = _Coded(words=np.where(borrowed.exists[:, :, None], words, -1), relation=borrowed.relation)
    ways = [_right(guess, truth[asked]) for guess in (independent, borrowed)]
    return {name: max(float(way[name].mean()) for way in ways) for name in ways[0] if len(ways[0][name])}
