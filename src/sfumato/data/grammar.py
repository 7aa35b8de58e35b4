"""The language of `shapes`: scenes as words, wrong captions, questions. Pure functions of a scene.

A scene is a dict of plain values, the `attributes` of a row:

    {"groups": ({"count": 1, "size": "small", "colour": "red", "shape": "circle"}, ...), "relation": "above" or None}

with one group and no relation, or two groups that differ in colour and in shape and a relation of the first to the
second. All words are public.
"""

import re
from collections.abc import Iterator
from typing import Any

import numpy as np

from sfumato.base.seeds import derive, integers

COLOURS = {  # red, green, blue of 255
    "red": (225, 50, 45),
    "green": (60, 190, 75),
    "blue": (60, 105, 245),
    "yellow": (245, 215, 55),
    "purple": (175, 75, 215),
    "white": (240, 240, 240),
}
SHAPES = ("circle", "square", "triangle", "diamond", "cross", "ring")
SIZES = ("small", "large")
COUNTS = ("a", "two", "three")
RELATIONS = ("above", "below", "left of", "right of")
_OPPOSITE = {"above": "below", "below": "above", "left of": "right of", "right of": "left of"}
NUMBERS = ("one", "two", "three")
_PUBLIC = bytes(32)

Scene = dict[str, Any]


def plural(shape: str, count: int) -> str:
    """Return the noun for a number of objects.

    >>> plural("cross", 2), plural("cross", 1)
    ('crosses', 'cross')
    """
    return shape if count == 1 else shape + ("es" if shape.endswith("s") else "s")


def _phrase(group: dict[str, Any]) -> str:
    count = group["count"]
    return f"{COUNTS[count - 1]} {group['size']} {group['colour']} {plural(group['shape'], count)}"


def caption(scene: Scene) -> str:
    """Return the sentence of a scene.

    >>> group = {"count": 2, "size": "small", "colour": "red", "shape": "cross"}
    >>> caption({"groups": (group,), "relation": None})
    'two small red crosses'
    """
    phrases = [_phrase(group) for group in scene["groups"]]
    return phrases[0] if scene["relation"] is None else f"{phrases[0]} {scene['relation']} {phrases[1]}"


_GROUP = re.compile(
    f"({'|'.join(COUNTS)}) ({'|'.join(SIZES)}) ({'|'.join(COLOURS)}) "
    f"({'|'.join(word for shape in SHAPES for word in (plural(shape, 2), shape))})"
)
_SCENE = re.compile(f"{_GROUP.pattern}(?: ({'|'.join(RELATIONS)}) {_GROUP.pattern})?")


def parse_caption(text: str) -> Scene | None:
    """Return the scene that a sentence names, or None where it is no sentence of the grammar.

    >>> parse_caption("a small red circle above two large blue squares")["relation"]
    'above'
    >>> parse_caption("a small red circles") is None
    True
    """
    match = _SCENE.fullmatch(" ".join(text.lower().split()).rstrip(" ."))
    if match is None:
        return None
    words = match.groups()
    scene = {"groups": tuple(_group(part) for part in (words[:4], words[5:]) if part[0]), "relation": words[4]}
    return scene if caption(scene) == match.group() else None  # singular and plural must agree


def _group(words: tuple[str, ...]) -> dict[str, Any]:
    count, size, colour, noun = words
    shape = next(shape for shape in SHAPES if noun in (shape, plural(shape, 2)))
    return {"count": COUNTS.index(count) + 1, "size": size, "colour": colour, "shape": shape}


def canonical(scene: Scene) -> Scene:
    """Return the same scene told from its upper or left group: "below" and "right of" become "above" and "left of".

    Two sentences say the same exactly if their canonical scenes are equal.
    """
    if scene["relation"] not in ("below", "right of"):
        return scene
    return {"groups": scene["groups"][::-1], "relation": _OPPOSITE[scene["relation"]]}


def hard_negatives(scene: Scene) -> dict[str, list[str]]:
    """Return sentences that are false or broken for this scene, made of its own words, in the manner of ARO.

    attribute: two words of one kind exchanged between the groups (of a lone group: another colour, shape, size, count);
    relation: the groups exchanged, and the opposite relation (none for a lone group);
    order: the words shuffled: nouns and adjectives, all others, within thirds, and the thirds themselves.
    The lists are a function of the scene. Source of the kinds: Yuksekgonul et al. 2023, "When and why vision-language
    models behave like bags-of-words".
    """
    pair = len(scene["groups"]) == 2
    return {
        "attribute": [caption(other) for other in (_exchanged(scene) if pair else _altered(scene))],
        "relation": [caption(other) for other in _misplaced(scene)] if pair else [],
        "order": _shuffled(caption(scene)),
    }


def _exchanged(scene: Scene) -> Iterator[Scene]:
    first, second = scene["groups"]
    for kind in ("colour", "shape", "size", "count"):
        if first[kind] != second[kind]:
            groups = ({**first, kind: second[kind]}, {**second, kind: first[kind]})
            yield {"groups": groups, "relation": scene["relation"]}


def _altered(scene: Scene) -> Iterator[Scene]:
    (group,) = scene["groups"]
    key = derive(_PUBLIC, "altered", caption(scene))
    for place, (kind, values) in enumerate(
        (("colour", tuple(COLOURS)), ("shape", SHAPES), ("size", SIZES), ("count", (1, 2, 3)))
    ):
        others = [value for value in values if value != group[kind]]
        value = others[int(integers(derive(key, place), 1, len(others))[0])]
        yield {"groups": ({**group, kind: value},), "relation": None}


def _misplaced(scene: Scene) -> Iterator[Scene]:
    yield {"groups": scene["groups"][::-1], "relation": scene["relation"]}
    yield {"groups": scene["groups"], "relation": _OPPOSITE[scene["relation"]]}


def _shuffled(text: str) -> list[str]:
    words = text.split()
    rng = np.random.default_rng(list(derive(_PUBLIC, "order", text)[:8]))
    content = [place for place, word in enumerate(words) if word in COLOURS or word in SIZES or _is_noun(word)]
    other = [place for place in range(len(words)) if place not in content]
    thirds = np.array_split(np.arange(len(words)), 3)
    orders = []
    for places in (content, other):
        order = np.arange(len(words))
        order[places] = rng.permutation(places)
        orders.append(order)
    orders.append(np.concatenate([rng.permutation(third) for third in thirds]))
    orders.append(np.concatenate([thirds[third] for third in rng.permutation(3)]))
    wrong = (" ".join(words[place] for place in order) for order in orders)
    # a shuffle may land on the sentence itself, or on another true one
    return [other for other in dict.fromkeys(wrong) if not _same(other, text)]


def _is_noun(word: str) -> bool:
    return any(word in (shape, plural(shape, 2)) for shape in SHAPES)


def _same(one: str, other: str) -> bool:
    first, second = parse_caption(one), parse_caption(other)
    return one == other or (first is not None and second is not None and canonical(first) == canonical(second))


def questions(scene: Scene) -> list[tuple[str, str]]:
    """Return (question, answer) pairs of a scene: colour, shape, number and size of each group, presence, place.

    The answer to the question of presence is "yes" for half the scenes, by a hash of the scene.
    """
    pairs = []
    for group in scene["groups"]:
        noun, verb = plural(group["shape"], group["count"]), "is" if group["count"] == 1 else "are"
        things = "thing" if group["count"] == 1 else "things"
        pairs += [
            (f"what colour {verb} the {noun}?", group["colour"]),
            (f"what shape {verb} the {group['colour']} {things}?", group["shape"]),
            (f"how many {plural(group['shape'], 2)} are there?", NUMBERS[group["count"] - 1]),
            (f"what size {verb} the {noun}?", group["size"]),
        ]
    pairs.append(_presence(scene))
    if scene["relation"] is not None:
        first, second = (f"the {plural(group['shape'], group['count'])}" for group in scene["groups"])
        verb = "is" if scene["groups"][0]["count"] == 1 else "are"
        pairs.append((f"where {verb} {first} relative to {second}?", scene["relation"]))
    return pairs


def _presence(scene: Scene) -> tuple[str, str]:
    draw = integers(derive(_PUBLIC, "presence", caption(scene)), 3, len(COLOURS) * len(SHAPES))
    group = scene["groups"][int(draw[0]) % len(scene["groups"])]
    if draw[1] % 2:
        return f"is there a {group['colour']} {group['shape']}?", "yes"
    present = {other["colour"] for other in scene["groups"] if other["shape"] == group["shape"]}
    absent = [colour for colour in COLOURS if colour not in present]
    return f"is there a {absent[int(draw[2]) % len(absent)]} {group['shape']}?", "no"


def shapes_vocabulary(*, questions: bool = False) -> tuple[str, ...]:
    """Return every word of the grammar, sorted; with `questions` also those of questions and answers.

    >>> len(shapes_vocabulary())
    28
    """
    words = {*COLOURS, *SIZES, *COUNTS, *" ".join(RELATIONS).split()}
    words |= {word for shape in SHAPES for word in (shape, plural(shape, 2))}
    if questions:
        asked = "what colour is are the shape thing things how many there size where relative to yes no ?"
        words |= {*asked.split(), *NUMBERS}
    return tuple(sorted(words))
