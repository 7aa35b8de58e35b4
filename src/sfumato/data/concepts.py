"""Which emoji show the same thing: one concept for all skin tones, genders, hair and directions of it.

An emoji is a tuple of code points. What tells a variant of a person from another (UTS #51, sections 2.2 to 2.5) is
folded away, so that a split by concept leaves no near copy on the other side.
"""

from collections.abc import Iterable

Points = tuple[int, ...]

_ADULT, _CHILD, _OLDER, _FAMILY = 0x1F9D1, 0x1F9D2, 0x1F9D3, 0x1F46A
_JOINER, _STYLE = 0x200D, 0xFE0F
_SKIN_TONES = range(0x1F3FB, 0x1F400)
_HAIR = range(0x1F9B0, 0x1F9B4)
_DROPPED = {_JOINER, _STYLE, *_SKIN_TONES, *_HAIR}
_ENDINGS = {0x2640, 0x2642, 0x27A1}  # female, male, facing right: signs of their own only where they stand alone
_ALIKE = {
    0x1F468: _ADULT,  # man
    0x1F469: _ADULT,  # woman
    0x1F471: _ADULT,  # blond
    0x1F466: _CHILD,  # boy
    0x1F467: _CHILD,  # girl
    0x1F474: _OLDER,
    0x1F475: _OLDER,
    0x1FAC3: 0x1F930,  # pregnant
    0x1FAC4: 0x1F930,
    0x1F934: 0x1FAC5,  # with a crown
    0x1F478: 0x1FAC5,
    0x1F57A: 0x1F483,  # dancing
    0x1F936: 0x1F385,  # Claus
}
_HANDS_HELD = (_ADULT, 0x1F91D, _ADULT)
_SAME: dict[Points, Points] = {
    (0x1F46B,): _HANDS_HELD,
    (0x1F46C,): _HANDS_HELD,
    (0x1F46D,): _HANDS_HELD,
    (_ADULT, 0x2764, 0x1F48B, _ADULT): (0x1F48F,),  # kiss
    (_ADULT, 0x2764, _ADULT): (0x1F491,),  # couple with heart
    (_ADULT, 0x1F430, _ADULT): (0x1F46F,),  # with bunny ears
    (_ADULT, 0x1FAEF, _ADULT): (0x1F93C,),  # wrestling
    (_ADULT, 0x1F384): (0x1F385,),  # Claus
    (0x1FAF1, 0x1FAF2): (0x1F91D,),  # handshake
}
# territories that fly the flag of another
_FLAGS = {"BV": "NO", "CP": "FR", "DG": "IO", "EA": "ES", "HM": "AU", "MF": "FR", "SJ": "NO", "UM": "US"}


def _flag(letters: str) -> Points:
    return tuple(0x1F1E6 + ord(letter) - ord("A") for letter in letters)


_SAME |= {_flag(territory): _flag(state) for territory, state in _FLAGS.items()}


def plain(points: Iterable[int]) -> Points:
    """Return an emoji without the variation selectors that only ask for colour."""
    return tuple(point for point in points if point != _STYLE)


def concept(points: Iterable[int]) -> Points:
    """Return the concept of an emoji: () of a lone skin tone or hair style.

    >>> firefighters = "\\U0001f9d1\\u200d\\U0001f692", "\\U0001f469\\U0001f3fd\\u200d\\U0001f692"  # any; a woman
    >>> concept(map(ord, firefighters[0])) == concept(map(ord, firefighters[1])) == (0x1F9D1, 0x1F692)
    True
    """
    kept = [_ALIKE.get(point, point) for point in points if point not in _DROPPED]
    while len(kept) > 1 and kept[-1] in _ENDINGS:
        kept.pop()
    if len(kept) > 1 and set(kept) <= {_ADULT, _CHILD}:
        return (_FAMILY,)
    return _SAME.get(tuple(kept), tuple(kept))


def is_variant(points: Iterable[int]) -> bool:
    """Whether an emoji shows its concept with something folded away; False of the concept's own emoji."""
    points = tuple(points)
    return tuple(point for point in points if point not in (_JOINER, _STYLE)) != concept(points)
