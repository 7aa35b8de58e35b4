"""Recipes: one file per paper, a function that returns a frozen Run; and what executes, measures and studies runs."""

from sfumato.recipes.dp_cap import dp_cap
from sfumato.recipes.dp_clip import dp_clip, dp_gcl
from sfumato.recipes.dp_vqa import dp_vlm, dp_vqa
from sfumato.recipes.logit_dp import logit_dp
from sfumato.recipes.run import Data, Loss, Model, Privacy, Run, Training

__all__ = [
    "Data",
    "Loss",
    "Model",
    "Privacy",
    "Run",
    "Training",
    "dp_cap",
    "dp_clip",
    "dp_gcl",
    "dp_vlm",
    "dp_vqa",
    "logit_dp",
]
