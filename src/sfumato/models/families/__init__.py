"""Families: how each vision-language architecture is fed, read and asked."""

from sfumato.models.families.family import Family, Rows, Setup
from sfumato.models.families.registry import FAMILIES, Known, known_family

__all__ = ["FAMILIES", "Family", "Known", "Rows", "Setup", "known_family"]
