"""Spellings of contractions that the official VQA evaluation mends, as the stems and endings that make them up."""

_NOT = "ai are ca could did does do had has have is might must need ought sha should was were wo would"
_ENDINGS = {
    "ve": "could might must not should they we what where who would you",
    "d": "he how it someone something there they where who you",
    "ll": "how it somebody someone something they what who why you",
    "s": "he how somebody someone that there what when where who why",
    "re": "there they what why you",
}
_TWO_ENDINGS = {
    ("n't", "'ve"): "could had might should would",
    ("'d", "'ve"): "he it she somebody someone something there they we who you",
}
_ALONE = {
    "maam": "ma'am",
    "oclock": "o'clock",
    "twas": "'twas",
    "ow's'at": "'ow's'at",
    "'ows'at": "'ow's'at",
    "'ow'sat": "'ow's'at",
    "yall": "y'all",
    "yall'll": "y'all'll",
    "y'allll": "y'all'll",
    "yall'd've": "y'all'd've",
    "y'alld've": "y'all'd've",
    "y'all'dve": "y'all'd've",
    "somebody'd": "somebodyd",  # the wrong way round in the official table; kept, for it decides figures
}


def contractions() -> dict[str, str]:
    """Return misspelt contraction -> what the official evaluation makes of it; keys are lower case.

    One ending is mended where its apostrophe is missing; of two endings one may be missing. Spellings that are words
    of their own ("well", "were", "shed") are left alone. The official table also has four entries with a capital I,
    which never apply since words are in lower case by then.

    >>> contractions()["dont"], contractions()["couldn'tve"], contractions()["theyd've"]
    ("don't", "couldn't've", "they'd've")
    """
    found = {f"{stem}nt": f"{stem}n't" for stem in _NOT.split()}
    for ending, stems in _ENDINGS.items():
        found |= {f"{stem}{ending}": f"{stem}'{ending}" for stem in stems.split()}
    for (first, second), stems in _TWO_ENDINGS.items():
        for stem in stems.split():
            whole = f"{stem}{first}{second}"
            found[stem + first.replace("'", "") + second] = whole
            found[stem + first + second.replace("'", "")] = whole
    return found | _ALONE
