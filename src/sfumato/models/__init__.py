"""Models: the captioner and dual encoders, tokenizers, where they start, what they export. The only door to
transformers and open_clip.
"""

from sfumato.models.adapter_peft import load_adapter, save_adapter
from sfumato.models.adapters import ADAPTERS, Adapted, Adapter, adapt
from sfumato.models.blip import BLIP_SIZES, start_blip
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
from sfumato.models.encoder_export import export_encoder, load_encoder
from sfumato.models.encoder_start import start_encoder
from sfumato.models.encoders import StemEncoder
from sfumato.models.export import Loaded, export, load_export
from sfumato.models.freeze import Training
from sfumato.models.generate import generate_captions
from sfumato.models.modeling_sfumato_encoders import ResNet18Plain, SmallConv
from sfumato.models.modeling_sfumato_timm import TimmEncoder
from sfumato.models.pair_export import export_pair, load_pair
from sfumato.models.pair_start import lit_pair
from sfumato.models.recompute import recompute_activations
from sfumato.models.sizes import SIZES, Size
from sfumato.models.start import Started, start
from sfumato.models.started import LoadedTowers, StartedTowers
from sfumato.models.tokenizer import Tokenizer
from sfumato.models.tower_pair import HeadTowers, TowerPair, frozen_features, is_frozen
from sfumato.models.towers import Towers, text_positions
from sfumato.models.two_views import TwoViewTowers
from sfumato.models.vlm import StartedVlm, load_vlm, start_vlm

__all__ = [
    "ADAPTERS",
    "BLIP_SIZES",
    "DUAL_SIZES",
    "SIZES",
    "Adapted",
    "Adapter",
    "Checkpoint",
    "Counts",
    "HeadTowers",
    "Loaded",
    "LoadedTowers",
    "ResNet18Plain",
    "Size",
    "SmallConv",
    "Started",
    "StartedTowers",
    "StartedVlm",
    "StemEncoder",
    "TimmEncoder",
    "Tokenizer",
    "TowerPair",
    "Towers",
    "Training",
    "TwoViewTowers",
    "absent",
    "adapt",
    "assemble",
    "build",
    "captioner_config",
    "count_parameters",
    "cross_attention",
    "embed",
    "evaluating",
    "export",
    "export_dual",
    "export_encoder",
    "export_pair",
    "frozen_features",
    "generate_captions",
    "is_frozen",
    "lit_pair",
    "load_adapter",
    "load_dual",
    "load_encoder",
    "load_export",
    "load_pair",
    "load_vlm",
    "read_checkpoint",
    "recompute_activations",
    "save_adapter",
    "start",
    "start_blip",
    "start_dual",
    "start_encoder",
    "start_vlm",
    "text_positions",
]
