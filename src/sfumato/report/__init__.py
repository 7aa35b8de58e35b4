"""Report: the privacy card, tables, plots and one HTML page of a run. Reads public files only; imports no torch."""

from sfumato.report import card, plots, tables
from sfumato.report.card import build, read, sentence
from sfumato.report.html import write as write_page

__all__ = ["build", "card", "plots", "read", "sentence", "tables", "write_page"]
