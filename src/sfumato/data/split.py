"""Held-out sets, split by owner: nobody, and no picture, stands on both sides."""

import numpy as np

from sfumato.base.errors import BadInput
from sfumato.base.seeds import derive, words
from sfumato.data.captioned import Captioned
from sfumato.data.keys import owner_key, text_key

_PUBLIC = bytes(32)  # which records are held out is no secret: the same split on every machine


def holdout(captioned: Captioned, fraction: float, seed: int = 0) -> tuple[Captioned, Captioned]:
    """Split into (train, heldout): a `fraction` of the owners (of the rows, where there are no owners) is held out.

    Owners are ranked by a keyed hash of their name, rows by one of their number, so that exchanging one record moves
    at most one other across the split.

    Raises:
        BadInput: `fraction` leaves one side empty.
    """
    if not 0.0 < fraction < 1.0:
        raise BadInput(f"holdout must lie strictly between 0 and 1, got {fraction}.")
    num_held = round(fraction * captioned.num_records)
    if not 0 < num_held < captioned.num_records:
        raise BadInput(
            f"holdout {fraction} of {captioned.num_records} records leaves one side empty: choose another fraction."
        )
    held = np.sort(np.argsort(_ranks(captioned, seed), kind="stable")[:num_held])
    inside = np.zeros(len(captioned), bool)
    owners = captioned.owners
    inside[held if owners is None else np.concatenate([owners[record] for record in held])] = True
    train = captioned.select(np.flatnonzero(~inside), name=f"{captioned.name} (train)")
    test = captioned.select(np.flatnonzero(inside), name=f"{captioned.name} (held out)")
    check_disjoint(train, test)
    return train, test


def _ranks(captioned: Captioned, seed: int) -> np.ndarray:
    key = derive(_PUBLIC, "holdout", seed)
    owners = captioned.owners
    if owners is None:
        return words(key, len(captioned))
    names = [_owner_name(captioned, int(rows[0])) for rows in owners]
    return np.array([int.from_bytes(derive(key, name)[:8], "big") for name in names], np.uint64)


def _owner_name(captioned: Captioned, index: int) -> str:
    assert captioned.owner_codes is not None
    return captioned.owner_names[captioned.owner_codes[captioned.selection[index]]]


def check_disjoint(train: Captioned, test: Captioned) -> None:
    """Refuse a pair of sets that share an owner, a picture file or a row; names are compared as `keys` says.

    Raises:
        BadInput: with the number of shared owners, files or rows; never their names.
    """
    for what, one, other in (
        ("owners", _owner_set(train), _owner_set(test)),
        ("picture files", _file_set(train), _file_set(test)),
    ):
        shared = len(one & other)
        if shared:
            raise BadInput(
                f"'{train.name}' and '{test.name}' share {shared} {what}: a figure on the second would be one on "
                "training records. Split with --holdout, or give sets without common owners and files."
            )
    if train.facts == test.facts:
        rows = np.intersect1d(np.asarray(train.selection), np.asarray(test.selection))
        if len(rows):
            raise BadInput(f"'{train.name}' and '{test.name}' share {len(rows)} rows of one source.")


def _owner_set(captioned: Captioned) -> set[str]:
    if captioned.owner_codes is None or captioned.picture_owned:  # pictures are compared by file
        return set()
    codes = np.unique(captioned.owner_codes[np.asarray(captioned.selection, np.int64)])
    return {owner_key(captioned.owner_names[code]) for code in codes}


def _file_set(captioned: Captioned) -> set[str]:
    if not len(captioned) or captioned.rows.file(int(captioned.selection[0])) is None:
        return set()
    files = (captioned.rows.file(int(row)) for row in captioned.selection)
    return {text_key(file) for file in files if file is not None}


def one_per_record(captioned: Captioned) -> Captioned:
    """Return the set with the first row of each record only.

    For retrieval, where further rows of a record (another drawing of an emoji, another skin tone) would compete with
    the right answer.
    """
    owners = captioned.owners
    if owners is None:
        return captioned
    first = np.array([rows[0] for rows in owners], np.int64)
    return captioned.select(first, name=f"{captioned.name}, one row per record")
