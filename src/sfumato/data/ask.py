"""Questions of a scene of `shapes`, each kind in several phrasings, with answers. Pure functions of a scene.

No phrasing is one of easy-VQA's, not even with other words for shape, picture and colour: a model that was pre-trained
here has learned what easy-VQA asks, and none of its questions. `grammar.questions` has one phrasing a kind.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from sfumato.data import grammar, lone
from sfumato.data.grammar import Scene, plural


class Palette(NamedTuple):
    """Colours and shapes that may be asked for."""

    colours: tuple[str, ...]
    shapes: tuple[str, ...]


GROUPS = Palette(tuple(grammar.COLOURS), grammar.SHAPES)
LONE = Palette(tuple(lone.COLOURS), lone.SHAPES)
KINDS = (
    *("color", "shape", "size", "number", "place"),
    *("has color", "has shape", "has object", "lacks color", "lacks shape"),
)
NUM_DRAWS = 4  # words that `ask` reads

_ANY = {  # of every scene: the thing asked about is told by what else is known of it
    "color": (
        "which color {does} the {noun} have?",
        "name the color of the {noun}.",
        "the {noun} {is} painted in which color?",
    ),
    "shape": (
        "which shape {does} the {colour} {things} have?",
        "name the shape of the {colour} {things}.",
        "what kind of figure has the color {colour}?",
    ),
    "size": ("{is} the {noun} small or large?", "which size {does} the {noun} have?"),
    "number": ("how many {nouns} can you see?", "count the {nouns}.", "what number of {nouns} is drawn?"),
    "place": ("where {is} the {noun} relative to the {other}?", "how {is} the {noun} placed relative to the {other}?"),
    "has color": (
        "can you see anything {colour}?",
        "does something {colour} appear here?",
        "do you find the color {colour}?",
    ),
    "has shape": ("can you see {a_shape}?", "does {a_shape} appear here?", "do you find any {nouns}?"),
    "has object": ("can you see {a_thing}?", "does {a_thing} appear here?", "do you find {a_thing}?"),
    "lacks color": (
        "is the color {colour} missing?",
        "is it true that nothing is {colour}?",
        "can you not see anything {colour}?",
        "is no {colour} to be found here?",
    ),
    "lacks shape": (
        "is {a_shape} missing?",
        "is it true that no {shape} is drawn?",
        "can you not see {a_shape}?",
        "is no {shape} to be found here?",
    ),
}
_ALONE = {  # only of a scene with one group, where "the object" has one meaning
    "color": ("which color {does} the {objects} have?", "in what color {is} the {objects} drawn?", "name the color."),
    "shape": ("which shape {does} the {objects} have?", "name the shape.", "what kind of figure do you see?"),
    "size": ("{is} the {objects} small or large?",),
    "has color": ("{is} the {objects} {colour}?", "{does} the {objects} have the color {colour}?"),
    "has shape": ("{does} the {objects} have the form of {a_shape}?",),
    "lacks color": ("{is} the {objects} not {colour}?",),
    "lacks shape": ("{does} the {objects} not have the form of {a_shape}?",),
}


def kinds_of(scene: Scene, palette: Palette) -> tuple[str, ...]:
    """Return the kinds of question that a scene answers: eight of a lone object, nine of a group, ten of two."""
    without = {"number", "place"} if palette is LONE else ({"place"} if scene["relation"] is None else set())
    return tuple(kind for kind in KINDS if kind not in without)


def ask(scene: Scene, palette: Palette, kind: str, draw: Sequence[int]) -> tuple[str, str]:
    """Return a question of one kind, and its answer; which, by the `NUM_DRAWS` words of `draw`.

    Half of the yes-no questions are answered with yes. What is asked for and absent is any other of the palette.
    """
    groups = scene["groups"]
    group = groups[0 if kind == "place" else draw[0] % len(groups)]
    asked, answer = _yes_no(groups, group, palette, kind, draw) if " " in kind else (group, _told(scene, group, kind))
    phrasings = _ANY[kind] + (_ALONE.get(kind, ()) if len(groups) == 1 else ())
    return phrasings[draw[1] % len(phrasings)].format(**_words(asked, groups[-1])), answer


def _told(scene: Scene, group: dict[str, Any], kind: str) -> str:
    if kind == "place":
        return scene["relation"]
    return grammar.NUMBERS[group["count"] - 1] if kind == "number" else group["colour" if kind == "color" else kind]


def _yes_no(
    groups: Sequence[dict[str, Any]], group: dict[str, Any], palette: Palette, kind: str, draw: Sequence[int]
) -> tuple[dict[str, Any], str]:
    """Return what is asked for and the answer."""
    verb, what = kind.split()
    there = bool(draw[2] % 2)
    asked = group if there else _absent(groups, group, palette, what, draw[3])
    return asked, "yes" if there == (verb == "has") else "no"


def _absent(
    groups: Sequence[dict[str, Any]], group: dict[str, Any], palette: Palette, what: str, draw: int
) -> dict[str, Any]:
    """Return a group like `group` but for a word that makes it one that the scene does not have."""
    changed = {"color": "colour", "shape": "shape", "object": ("colour", "shape")[draw % 2]}[what]
    shown = {other[changed] for other in groups}  # also of an object: neither group may become the other
    values = palette.colours if changed == "colour" else palette.shapes
    absent = [value for value in values if value not in shown]
    return {**group, changed: absent[draw // 2 % len(absent)]}


def _words(group: dict[str, Any], other: dict[str, Any]) -> dict[str, str]:
    """Return the words that phrasings have blanks for, in the number of `group`."""
    one = group["count"] == 1
    colour, shape = group["colour"], group["shape"]
    return {
        **{"colour": colour, "shape": shape, "nouns": plural(shape, 2), "noun": plural(shape, group["count"])},
        **{"other": plural(other["shape"], other["count"]), "does": "does" if one else "do"},
        **{"is": "is" if one else "are", "objects": "object" if one else "objects"},
        **{"things": "thing" if one else "things", "a_shape": f"a {shape}", "a_thing": f"{_a(colour)} {shape}"},
    }


def _a(word: str) -> str:
    return f"{'an' if word[0] in 'aeiou' else 'a'} {word}"


def asked_vocabulary() -> tuple[str, ...]:
    """Return every word of the questions and answers of `shape_questions`, sorted, with "?" and ".".

    >>> {"rectangle", "teal", "yes", "which", "?"} <= set(asked_vocabulary())
    True
    """
    phrasings = " ".join(text for choice in (_ANY, _ALONE) for texts in choice.values() for text in texts)
    blanks = {word for one in (1, 2) for word in _verbs(one)}
    words = {word for word in phrasings.replace("?", " ? ").replace(".", " . ").split() if "{" not in word} | blanks
    for palette in (GROUPS, LONE):
        words |= {*palette.colours, *palette.shapes, *(plural(shape, 2) for shape in palette.shapes)}
    return tuple(sorted(words | {*grammar.SIZES, *grammar.NUMBERS, *" ".join(grammar.RELATIONS).split(), *_YES_NO}))


def _verbs(count: int) -> list[str]:
    words = _words({"count": count, "colour": "red", "shape": "ring"}, {"count": 1, "shape": "ring"})
    return [words[name] for name in ("does", "is", "objects", "things")]


_YES_NO = ("yes", "no", "a", "an")
