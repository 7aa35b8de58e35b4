"""Which two data sets count as neighbours (DESIGN section 5)."""

from enum import StrEnum


class Relation(StrEnum):
    """What it means that two data sets differ in one record.

    `ADD_REMOVE`: one data set has one record more; its size N is not public.
    `ZERO_OUT`: one record is replaced by one that contributes nothing; N is public. Numerically as `ADD_REMOVE`.
    `REPLACE_ONE`: one record is exchanged for another; N is public.
    """

    ADD_REMOVE = "add_remove"
    ZERO_OUT = "zero_out"
    REPLACE_ONE = "replace_one"
