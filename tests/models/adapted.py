"""Small models of several architectures, their batches and losses: what the tests of adapters share."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
import transformers as hf
from torch import Tensor, nn

from sfumato.models import ADAPTERS, Adapter

WORDS = 40
TEXT = {
    "vocab_size": WORDS,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 32,
}
SIGHT = {**TEXT, "image_size": 8, "patch_size": 4}
SIGHT.pop("vocab_size")
SIGHT.pop("max_position_embeddings")


@dataclass(frozen=True)
class Case:
    """A model, its batch, and its loss of one value per row."""

    make: Callable[[], nn.Module]
    batch: Callable[[], dict[str, Tensor]]
    loss: Callable[[Any, dict[str, Tensor]], Tensor]

    def rows(self, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
        return {name: t.to(dtype) if t.is_floating_point() else t for name, t in self.batch().items()}

    def reach(self, model: nn.Module) -> Tensor:
        """What the model makes of the batch, in the precision of its first parameter that is no adapter's."""
        dtype = next(param.dtype for name, param in model.named_parameters() if "lora" not in name)
        return self.loss(model, self.rows(dtype))


def small(train: str, **more: Any) -> Adapter | None:
    """Settings of a small adapter; None where `train` has none."""
    return Adapter(**{"rank": 2} | more) if train in ADAPTERS else None


def moved(model: nn.Module, scale: float = 0.05) -> nn.Module:
    """Move every parameter off its initial value, so that no product is with zero."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for param in model.parameters():
            param.add_(scale * torch.randn(param.shape, generator=generator).to(param))
    return model


def words(count: int = 4, length: int = 6, left: bool = False) -> dict[str, Tensor]:
    """Ids with unequal lengths, filled on one side."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(4, WORDS, (count, length), generator=generator)
    mask = torch.ones_like(ids)
    for row in range(1, count):
        pad = slice(0, row) if left else slice(length - row, length)
        ids[row, pad], mask[row, pad] = 0, 0
    return {"input_ids": ids, "attention_mask": mask}


def pixels(count: int = 4, size: int = 8) -> Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def answer_loss(logits: Tensor, batch: dict[str, Tensor]) -> Tensor:
    """Mean cross entropy of each row over its next words."""
    kept = (batch["attention_mask"][:, 1:] * batch["attention_mask"][:, :-1]).to(logits)
    logits = logits[:, -batch["input_ids"].shape[1] :]
    each = F.cross_entropy(logits[:, :-1].flatten(0, 1), batch["input_ids"][:, 1:].flatten(), reduction="none")
    return (each.view_as(kept) * kept).sum(1) / kept.sum(1)


def causal_loss(model: Any, batch: dict[str, Tensor]) -> Tensor:
    return answer_loss(model(**batch, use_cache=False).logits, batch)


def llama() -> nn.Module:
    torch.manual_seed(0)
    config = hf.LlamaConfig(**TEXT, num_key_value_heads=1, pad_token_id=0, attention_bias=True, mlp_bias=True)
    return hf.LlamaForCausalLM(config)


def gpt2() -> nn.Module:
    torch.manual_seed(0)
    quiet = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0, "bos_token_id": 1, "eos_token_id": 1}
    small = {"vocab_size": WORDS, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 32}
    return hf.GPT2LMHeadModel(hf.GPT2Config(**small, **quiet))


def opt() -> nn.Module:
    torch.manual_seed(0)
    more = {"ffn_dim": 24, "word_embed_proj_dim": 16, "dropout": 0.0, "pad_token_id": 0}
    small = {name: value for name, value in TEXT.items() if name != "intermediate_size"}
    return hf.OPTForCausalLM(hf.OPTConfig(**small, **more))


def clip() -> nn.Module:
    torch.manual_seed(0)
    config = hf.CLIPConfig(
        text_config={**TEXT, "eos_token_id": 3, "bos_token_id": 1, "pad_token_id": 0},
        vision_config=SIGHT,
        projection_dim=8,
    )
    return hf.CLIPModel(config)


def clip_batch() -> dict[str, Tensor]:
    found = {**words(), "pixel_values": pixels()}
    found["input_ids"][torch.arange(4), found["attention_mask"].sum(1) - 1] = 3
    return found


def clip_loss(model: Any, batch: dict[str, Tensor]) -> Tensor:
    """Of each pair by itself: how far its picture and its text are apart."""
    out = model(**batch)
    return 1 - (out.image_embeds * out.text_embeds).sum(-1)


def blip() -> nn.Module:
    torch.manual_seed(0)
    text = {**TEXT, "encoder_hidden_size": 16, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    text |= {"pad_token_id": 0, "bos_token_id": 1, "sep_token_id": 3, "eos_token_id": 3}
    return hf.BlipForQuestionAnswering(hf.BlipConfig(text_config=text, vision_config=SIGHT))


def blip_batch() -> dict[str, Tensor]:
    answers = words(length=5)
    asked = {**words(), "pixel_values": pixels()}
    return {**asked, "answer_ids": answers["input_ids"], "answers": answers["attention_mask"]}


def blip_loss(model: Any, batch: dict[str, Tensor]) -> Tensor:
    sight = model.vision_model(batch["pixel_values"]).last_hidden_state
    seen = torch.ones(sight.shape[:2], dtype=torch.long)
    asked = model.text_encoder(
        input_ids=batch["input_ids"],
        attention_mask=batch["attention_mask"],
        encoder_hidden_states=sight,
        encoder_attention_mask=seen,
    ).last_hidden_state
    logits = model.text_decoder(
        input_ids=batch["answer_ids"],
        attention_mask=batch["answers"],
        encoder_hidden_states=asked,
        encoder_attention_mask=batch["attention_mask"],
        use_cache=False,
    ).logits
    return answer_loss(logits, {"input_ids": batch["answer_ids"], "attention_mask": batch["answers"]})


def t5() -> nn.Module:
    torch.manual_seed(0)
    small = {"vocab_size": WORDS, "d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 2, "num_heads": 2}
    more = {"dropout_rate": 0.0, "decoder_start_token_id": 0, "pad_token_id": 0}
    return hf.T5ForConditionalGeneration(hf.T5Config(**small, **more))


def t5_loss(model: Any, batch: dict[str, Tensor]) -> Tensor:
    return answer_loss(model(**batch, decoder_input_ids=batch["input_ids"], use_cache=False).logits, batch)


CASES = {
    "llama, filled right": Case(llama, words, causal_loss),
    "llama, filled left": Case(llama, lambda: words(left=True), causal_loss),
    "gpt2": Case(gpt2, words, causal_loss),
    "opt": Case(opt, lambda: words(left=True), causal_loss),
    "clip": Case(clip, clip_batch, clip_loss),
    "blip": Case(blip, blip_batch, blip_loss),
    "t5": Case(t5, words, t5_loss),
}


PLACE = 39  # the placeholder of a picture


def llava() -> nn.Module:
    torch.manual_seed(0)
    sight, text = hf.CLIPVisionConfig(**SIGHT), hf.LlamaConfig(**TEXT, pad_token_id=0)
    return hf.LlavaForConditionalGeneration(
        hf.LlavaConfig(vision_config=sight, text_config=text, image_token_index=PLACE)
    )


def pictured(count: int = 4) -> dict[str, Tensor]:
    """Words behind the placeholders of one picture; every second row has two words less, filled on the left."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(4, PLACE, (count, 10), generator=generator)
    mask = torch.ones_like(ids)
    ids[::2, :2], mask[::2, :2] = 0, 0
    ids[:, 2:6] = PLACE
    sight = torch.randn(count, 3, 8, 8, generator=generator, dtype=torch.float64)
    return {"input_ids": ids, "attention_mask": mask, "pixel_values": sight}
