"""Columns that cannot have two roles at once: a file that is its own caption, a text that is a person."""

from collections.abc import Mapping

from sfumato.base.errors import BadInput

_APART = (
    ("image", ("caption", "question", "answer", "kind", "label")),
    ("owner", ("caption", "question", "answer")),
    ("question", ("answer",)),
)


def check_roles(chosen: Mapping[str, str | None], where: str) -> None:
    """Check that no column was chosen for two roles that exclude one another.

    Args:
        chosen: role to column, None where a role has none. An owner may be the picture (all its captions are one
            record), a label the owner or the caption.
        where: the table in messages.

    Raises:
        BadInput: naming the column and both flags.
    """
    for role, others in _APART:
        for other in others:
            name = chosen.get(role)
            if name is not None and name == chosen.get(other):
                raise BadInput(
                    f"{where}: column '{name}' cannot be both --{role}-column and --{other}-column: name another one."
                )
