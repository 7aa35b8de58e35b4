"""The loss of answers to questions about pictures, one value per row, from any model's logits."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sfumato.base import Refused
from sfumato.losses.caption import likelihood


@dataclass(frozen=True)
class AnswerLoss:
    """Mean cross entropy of each row over its own labels.

    loss_i = -(1 / n_i) sum_t log p(y_it | everything before t in row i), t over the n_i labels of row i that are not
    -100 (the answer and its end; nothing of prompt or padding); a row without any gives 0. Every transformers model
    returns the mean over all tokens of a batch instead, in which one row's length weighs the others.

    Attributes:
        logits: (model, batch) to (N, L, V), where logits[:, t] predicts labels[:, t]; rows independent.

    Source: PAPERS section 1; DP-BLIP is this loss under example, group or batch units.
    """

    logits: Callable[[Any, Any], Tensor]

    def __call__(self, model: Any, batch: Mapping[str, Tensor]) -> Tensor:
        """Return the losses (N,), in at least float32, of a batch with `labels` (N, L) int64.

        Raises:
            Refused: the logits are not one vector per label.
        """
        labels = batch["labels"]
        found = self.logits(model, batch)
        if found.dim() != 3 or found.shape[:2] != labels.shape:
            raise Refused(f"logits of shape {tuple(found.shape)} do not predict labels of shape {tuple(labels.shape)}.")
        # Half precision would round the log-sum-exp over a large vocabulary; float64 stays what it is.
        wide = found.to(torch.promote_types(found.dtype, torch.float32))
        return -likelihood(wide, labels).per_token
