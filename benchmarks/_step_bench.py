"""A model under measurement with its optimizer and its synthetic rows."""

from collections.abc import Callable
from typing import Any

import torch
from _step_cases import Case
from torch import Tensor

Step = Callable[[], None]
CLIP_NORM = 1.0
MICRO_BATCHES = 8


class Bench:
    """A model with its optimizer and one synthetic micro-batch; sides of one bench update the same model in turns."""

    def __init__(self, case: Case) -> None:
        torch.manual_seed(0)
        self.case = case
        self.model: Any = case.build()
        self.batch = case.batch(case.rows)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4)

    def losses(self) -> Tensor:
        """Return the loss of every row."""
        return self.case.loss_fn(self.model, self.batch)

    def update(self) -> None:
        """Let the optimizer step, and forget the gradients."""
        self.optimizer.step()
        self.optimizer.zero_grad()
