"""Small foreign checkpoints, made once: what a user may bring instead of a run of sfumato."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers as hf

from sfumato.models import Tokenizer

VIT = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "image_size": 32,
    "patch_size": 8,
}


@pytest.fixture(scope="session")
def words() -> Tokenizer:
    return Tokenizer.from_public_text(["a red circle above two blue squares", "a photo of an ankle boot"])


def jitter(model):
    """Move every parameter off its initial value, so that a lost tensor or bias shows."""
    with torch.no_grad():
        for param in model.parameters():
            param.add_(0.05 * torch.randn_like(param))
    return model


@pytest.fixture(scope="session")
def vit_folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("vit")
    torch.manual_seed(1)
    jitter(hf.ViTModel(hf.ViTConfig(**VIT))).save_pretrained(folder)  # with biases and a pooler, as on the hub
    return folder


@pytest.fixture(scope="session")
def bert_captioner_folder(tmp_path_factory, words) -> Path:
    """A ViT with pooler and a BERT decoder with tied head, as many captioners on the hub are."""
    folder = tmp_path_factory.mktemp("vit-bert")
    torch.manual_seed(2)
    text = hf.BertConfig(
        vocab_size=words.vocab_size,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=24,
        is_decoder=True,
        add_cross_attention=True,
    )
    config = hf.VisionEncoderDecoderConfig.from_encoder_decoder_configs(hf.ViTConfig(**VIT), text)
    config.pad_token_id, config.decoder_start_token_id, config.eos_token_id = 0, words.bos_id, words.eos_id
    jitter(hf.VisionEncoderDecoderModel(config)).save_pretrained(folder)
    words.save(folder)
    return folder


@pytest.fixture(scope="session")
def vlms(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("vlms")


@pytest.fixture
def copied(vlms, tmp_path) -> Callable[[str], Path]:
    """A copy, to be spoilt, of the small checkpoint of a kind of vision-language model, which is made once."""

    from tests.models.vlms import FOLDERS  # which has `jitter` from here

    def copy(kind: str) -> Path:
        if not (vlms / kind).is_dir():
            FOLDERS[kind](vlms / kind)
        return Path(shutil.copytree(vlms / kind, tmp_path / kind))

    return copy
