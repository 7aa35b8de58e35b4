"""Text that comes from elsewhere (names of files and sets, captions), made safe to show."""

import re

# control characters (C0, C1), what turns the direction of writing or has no width, line ends, half characters
_UNSEEN = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff"
    "\U000e0000-\U000e007f]"
)


def visible(text: str, keep: str = "") -> str:
    r"""Return a text in which characters that a terminal obeys or hides are spelled out.

    Args:
        text: any text.
        keep: characters that stay, such as the line ends of a text of our own.

    >>> visible("caf\u00e9 \x1b[31m\n\u202e")
    'café \\x1b[31m\\n\\u202e'
    """
    return _UNSEEN.sub(lambda found: found[0] if found[0] in keep else _spelled(found[0]), text)


def _spelled(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
