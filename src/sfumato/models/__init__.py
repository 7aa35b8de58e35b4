"""Models: the captioner, its tokenizer, where it starts, what it exports. The only door to transformers."""

from sfumato.models.captioner import (
    Counts,
    absent,
    assemble,
    build,
    captioner_config,
    count_parameters,
    cross_attention,
    embed,
    evaluating,
)
from sfumato.models.checkpoint import Checkpoint, read_checkpoint
from sfumato.models.export import Loaded, export, load_export
from sfumato.models.freeze import Training
from sfumato.models.generate import generate_captions
from sfumato.models.sizes import SIZES, Size
from sfumato.models.start import Started, start
from sfumato.models.tokenizer import Tokenizer

__all__ = [
    "SIZES",
    "Checkpoint",
    "Counts",
    "Loaded",
    "Size",
    "Started",
    "Tokenizer",
    "Training",
    "absent",
    "assemble",
    "build",
    "captioner_config",
    "count_parameters",
    "cross_attention",
    "embed",
    "evaluating",
    "export",
    "generate_captions",
    "load_export",
    "read_checkpoint",
    "start",
]
