"""sfumato: train vision-language models on sensitive image-text data with provable differential privacy.

    import sfumato as sf

The names below are looked up on first use, so that `import sfumato` costs nothing and planning needs no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # what `__getattr__` does, told to type checkers and editors; a test compares the two
    from sfumato.base import BadInput, Refused, Relation, SfumatoError
    from sfumato.losses import Contrast, caption_loss
    from sfumato.plan import Conjectured, ConjecturedLoss, Example, Group, InfoNCE, Pair, Plan, Sigmoid, SpreadOut
    from sfumato.sampling import FixedSize, FullBatch, Poisson
    from sfumato.train import PrivateGradients, Trainer, loader

__version__ = "0.1.0"

_HOME_OF = {
    "BadInput": "sfumato.base",
    "Refused": "sfumato.base",
    "Relation": "sfumato.base",
    "SfumatoError": "sfumato.base",
    "FixedSize": "sfumato.sampling",
    "FullBatch": "sfumato.sampling",
    "Poisson": "sfumato.sampling",
    "Conjectured": "sfumato.plan",
    "ConjecturedLoss": "sfumato.plan",
    "Example": "sfumato.plan",
    "Group": "sfumato.plan",
    "InfoNCE": "sfumato.plan",
    "Pair": "sfumato.plan",
    "Plan": "sfumato.plan",
    "Sigmoid": "sfumato.plan",
    "SpreadOut": "sfumato.plan",
    "Contrast": "sfumato.losses",
    "caption_loss": "sfumato.losses",
    "PrivateGradients": "sfumato.train",
    "Trainer": "sfumato.train",
    "loader": "sfumato.train",
}
_ROOMS = (
    "accounting",
    "base",
    "data",
    "evaluate",
    "losses",
    "mechanisms",
    "models",
    "norms",
    "plan",
    "recipes",
    "report",
    "sampling",
    "theory",
    "train",
)

__all__ = [
    "BadInput",
    "Conjectured",
    "ConjecturedLoss",
    "Contrast",
    "Example",
    "FixedSize",
    "FullBatch",
    "Group",
    "InfoNCE",
    "Pair",
    "Plan",
    "Poisson",
    "PrivateGradients",
    "Refused",
    "Relation",
    "SfumatoError",
    "Sigmoid",
    "SpreadOut",
    "Trainer",
    "__version__",
    "caption_loss",
    "loader",
]


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return import_module(f"sfumato.{name}")
    if name in _HOME_OF:
        value = getattr(import_module(_HOME_OF[name]), name)
        globals()[name] = value  # the next look-up does not come through here
        return value
    raise AttributeError(f"module 'sfumato' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_ROOMS})
