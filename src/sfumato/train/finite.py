"""Weights that are not numbers any more: training further would spend budget on nothing.

Released weights are public, so a run may stop because of them; un-noised gradients and losses never end one.
"""

import torch
from torch import nn

from sfumato.base import BadInput


def check_finite(model: nn.Module, step: int) -> None:
    """Check the trainable weights as they are after `step` steps.

    Args:
        model: whose weights were moved by released gradients only.
        step: steps done, all of them charged.

    Raises:
        BadInput: a weight is not finite.
    """
    trained = [p.detach() for p in model.parameters() if p.requires_grad and p.numel()]
    if not trained:
        return
    finite = torch.stack([torch.isfinite(p).all() for p in trained])  # one answer to wait for, also on a GPU
    if not bool(finite.all()):
        raise BadInput(
            f"after step {step} the released weights are not finite, so nothing is learned from here on: lower "
            "--learning-rate (or --weight-decay) and train into another folder. The ledger counts the steps that were "
            "charged; the last checkpoint and what was exported before stay as they are."
        )
