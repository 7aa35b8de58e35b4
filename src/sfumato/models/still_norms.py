"""BatchNorm that keeps its statistics: in training mode it would couple the rows of a batch."""

from torch import nn


class StillBatchNorm2d(nn.BatchNorm2d):
    """A BatchNorm2d that stays in evaluation mode whatever mode its model is set to."""

    def train(self, mode: bool = True) -> "StillBatchNorm2d":
        """Leave the mode as it is, evaluation."""
        self.training = False
        return self


def hold_batch_norms(model: nn.Module) -> list[str]:
    """Make every BatchNorm2d of the model keep its statistics, in place, and return their names.

    Only the class changes, by which `train()` is found: names of tensors, and so checkpoints and exports, do not.
    """
    held = []
    for name, module in model.named_modules():
        if type(module).__name__ != "StillBatchNorm2d" and isinstance(module, nn.BatchNorm2d):
            module.__class__ = StillBatchNorm2d
        if isinstance(module, StillBatchNorm2d):
            module.train()
            held.append(name)
    return held
