"""Models: the captioner and dual encoders, tokenizers, where they start, what they export. The only door to
transformers and open_clip.
"""

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
from sfumato.models.dual import start_dual
from sfumato.models.dual_export import export_dual, load_dual
from sfumato.models.dual_sizes import DUAL_SIZES
from sfumato.models.export import Loaded, export, load_export
from sfumato.models.freeze import Training
from sfumato.models.generate import generate_captions
from sfumato.models.sizes import SIZES, Size
from sfumato.models.start import Started, start
from sfumato.models.started import LoadedTowers, StartedTowers
from sfumato.models.tokenizer import Tokenizer
from sfumato.models.towers import Towers

__all__ = [
    "DUAL_SIZES",
    "SIZES",
    "Checkpoint",
    "Counts",
    "Loaded",
    "LoadedTowers",
    "Size",
    "Started",
    "StartedTowers",
    "Tokenizer",
    "Towers",
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
    "export_dual",
    "generate_captions",
    "load_dual",
    "load_export",
    "read_checkpoint",
    "start",
    "start_dual",
]
