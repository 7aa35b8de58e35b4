"""Recipes: one file per paper, a function that returns a frozen Run; and what executes, measures and studies runs."""

from sfumato.recipes.dp_cap import dp_cap
from sfumato.recipes.run import Data, Model, Privacy, Run, Training

__all__ = ["Data", "Model", "Privacy", "Run", "Training", "dp_cap"]
