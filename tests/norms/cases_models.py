"""Cases from transformers, open_clip and timm, in small random configurations."""

from typing import Any

import torch
import torch.nn.functional as F
import transformers as tf
from tests.norms.cases import Case, N, case, class_loss, classes, pixels, ragged, token_loss, tokens
from torch import Tensor, nn

SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}


def _captioner(checkpointing: bool = False, attention: str = "sdpa") -> Case:
    encoder = tf.ViTConfig(**SMALL, image_size=32, patch_size=8, attn_implementation=attention)
    decoder = tf.BertConfig(
        **SMALL, vocab_size=20, is_decoder=True, add_cross_attention=True, max_position_embeddings=16,
        tie_word_embeddings=False, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
        attn_implementation=attention,
    )  # fmt: skip
    model = tf.VisionEncoderDecoderModel(
        encoder=tf.ViTModel(encoder, add_pooling_layer=False), decoder=tf.BertLMHeadModel(decoder)
    )
    model.config.decoder_start_token_id, model.config.pad_token_id = 1, 0
    if checkpointing:
        for part in (model.encoder, model.decoder):
            name = "activation_checkpointing_enable"  # in transformers before 5.24 under the other name
            getattr(part, name, part.gradient_checkpointing_enable)({"use_reentrant": False})
        model.train()

    def loss_fn(model: Any, batch: dict[str, Tensor]) -> Tensor:
        inputs = batch["labels"].clamp(min=0)
        out = model(pixel_values=batch["x"], decoder_input_ids=inputs, use_cache=False)
        return token_loss(out.logits[:, :-1], batch["labels"][:, 1:])

    labels = torch.where(ragged() > 0, tokens(), -100)
    return model, loss_fn, {"x": pixels(), "labels": labels}


@case
def captioner() -> Case:
    return _captioner()


@case
def captioner_eager_attention() -> Case:
    return _captioner(attention="eager")


@case
def captioner_with_checkpointing() -> Case:
    return _captioner(checkpointing=True)


@case
def vit() -> Case:
    config = tf.ViTConfig(**SMALL, image_size=32, patch_size=8, num_labels=3)
    return tf.ViTForImageClassification(config), class_loss, {"x": pixels(), "y": classes()}


@case
def bert() -> Case:
    config = tf.BertConfig(**SMALL, vocab_size=20, num_labels=3, max_position_embeddings=16)
    model = tf.BertForSequenceClassification(config)

    def loss_fn(model: Any, batch: dict[str, Tensor]) -> Tensor:
        logits = model(input_ids=batch["x"], attention_mask=batch["mask"]).logits
        return F.cross_entropy(logits, batch["y"], reduction="none")

    return model.train(), loss_fn, {"x": tokens(), "mask": ragged(), "y": classes()}


@case
def bert_masked_language_model_tied() -> Case:
    model = tf.BertForMaskedLM(tf.BertConfig(**SMALL, vocab_size=20, max_position_embeddings=16))
    return model.eval(), lambda m, b: token_loss(m(input_ids=b["x"]).logits, b["x"]), {"x": tokens()}


@case
def gpt2() -> Case:
    model = tf.GPT2LMHeadModel(tf.GPT2Config(vocab_size=20, n_positions=16, n_embd=16, n_layer=2, n_head=2))
    return model.eval(), lambda m, b: token_loss(m(b["x"]).logits[:, :-1], b["x"][:, 1:]), {"x": tokens()}


def matching_loss(image: Tensor, text: Tensor, scale: Tensor, bias: Tensor | float = 0.0) -> Tensor:
    """A loss for each pair on its own, so that dual encoders can be measured per example."""
    cosine = (F.normalize(image, dim=-1) * F.normalize(text, dim=-1)).sum(-1)
    return F.softplus(-(cosine * scale.exp() + bias))


@case
def clip() -> Case:
    text = {**SMALL, "vocab_size": 20, "max_position_embeddings": 16, "eos_token_id": 2}
    vision = {**SMALL, "image_size": 32, "patch_size": 8}
    model = tf.CLIPModel(tf.CLIPConfig(text_config=text, vision_config=vision, projection_dim=8))

    def loss_fn(model: Any, batch: dict[str, Tensor]) -> Tensor:
        image = model.visual_projection(model.vision_model(pixel_values=batch["x"]).pooler_output)
        text = model.text_projection(model.text_model(input_ids=batch["ids"]).pooler_output)
        return matching_loss(image, text, model.logit_scale)

    return model, loss_fn, {"x": pixels(), "ids": tokens()}


@case
def siglip() -> Case:
    text = {**SMALL, "vocab_size": 20, "max_position_embeddings": 7}
    model = tf.SiglipModel(
        tf.SiglipConfig(text_config=text, vision_config={**SMALL, "image_size": 32, "patch_size": 8})
    )

    def loss_fn(model: Any, batch: dict[str, Tensor]) -> Tensor:
        image = model.vision_model(pixel_values=batch["x"]).pooler_output
        text = model.text_model(input_ids=batch["ids"]).pooler_output
        return matching_loss(image, text, model.logit_scale, model.logit_bias)

    return model, loss_fn, {"x": pixels(), "ids": tokens()}


@case
def blip_vqa() -> Case:
    text = {
        **SMALL, "vocab_size": 20, "max_position_embeddings": 16, "encoder_hidden_size": 16, "bos_token_id": 1,
        "eos_token_id": 2, "sep_token_id": 2, "pad_token_id": 0,
    }  # fmt: skip
    config = tf.BlipConfig(text_config=text, vision_config={**SMALL, "image_size": 32, "patch_size": 8})
    model = tf.BlipForQuestionAnswering(config)

    def loss_fn(model: Any, batch: dict[str, Tensor]) -> Tensor:
        image = model.vision_model(pixel_values=batch["x"]).last_hidden_state
        question = model.text_encoder(input_ids=batch["ids"], encoder_hidden_states=image)[0]
        out = model.text_decoder(input_ids=batch["ids"], encoder_hidden_states=question)
        return token_loss(out.logits[:, :-1], batch["ids"][:, 1:])

    return model.eval(), loss_fn, {"x": pixels(), "ids": tokens()}


@case
def swin() -> Case:
    config = tf.SwinConfig(
        image_size=32, patch_size=4, embed_dim=8, depths=[2, 1], num_heads=[2, 2], window_size=4, num_labels=3,
        drop_path_rate=0.0,
    )  # fmt: skip
    return tf.SwinForImageClassification(config).eval(), class_loss, {"x": pixels(), "y": classes()}


@case
def segformer() -> Case:
    config = tf.SegformerConfig(
        depths=[1, 1], hidden_sizes=[8, 16], num_attention_heads=[1, 2], sr_ratios=[2, 1], patch_sizes=[3, 3],
        strides=[2, 2], mlp_ratios=[2, 2], num_encoder_blocks=2, num_labels=3, drop_path_rate=0.0,
    )  # fmt: skip
    return tf.SegformerForImageClassification(config).eval(), class_loss, {"x": pixels(), "y": classes()}


@case
def t5() -> Case:
    config = tf.T5Config(
        vocab_size=20, d_model=16, d_kv=8, d_ff=24, num_layers=2, num_heads=2, decoder_start_token_id=0,
        feed_forward_proj="gated-gelu", dropout_rate=0.0,
    )  # fmt: skip
    model = tf.T5ForConditionalGeneration(config)

    def loss_fn(model: Any, batch: dict[str, Tensor]) -> Tensor:
        out = model(input_ids=batch["x"], attention_mask=batch["mask"], decoder_input_ids=batch["x"], use_cache=False)
        return token_loss(out.logits[:, :-1], batch["x"][:, 1:])

    return model, loss_fn, {"x": tokens(), "mask": ragged()}


@case
def llama_grouped_query() -> Case:
    config = tf.LlamaConfig(**SMALL, vocab_size=20, num_key_value_heads=1, max_position_embeddings=16)
    model = tf.LlamaForCausalLM(config)
    return model, lambda m, b: token_loss(m(b["x"], use_cache=False).logits[:, :-1], b["x"][:, 1:]), {"x": tokens()}


@case
def open_clip() -> Case:
    import open_clip

    model = open_clip.CLIP(
        embed_dim=8,
        vision_cfg={"image_size": 32, "layers": 2, "width": 16, "head_width": 8, "patch_size": 8},
        text_cfg={"context_length": 7, "vocab_size": 20, "width": 16, "heads": 2, "layers": 2},
    )

    def loss_fn(model: Any, batch: dict[str, Tensor]) -> Tensor:
        return matching_loss(model.encode_image(batch["x"]), model.encode_text(batch["ids"]), model.logit_scale)

    return model, loss_fn, {"x": pixels(), "ids": tokens()}


@case
def timm_vit() -> Case:
    import timm

    model = timm.create_model(
        "vit_tiny_patch16_224", img_size=32, patch_size=8, embed_dim=16, depth=2, num_heads=2, num_classes=3,
        init_values=0.1,
    )  # fmt: skip
    return model, class_loss, {"x": pixels(), "y": classes()}


@case
def timm_resnet_groupnorm() -> Case:
    import timm

    model = timm.create_model("resnet10t", norm_layer=lambda channels, **_: nn.GroupNorm(4, channels), num_classes=3)
    return model, class_loss, {"x": pixels(64)[:4], "y": classes()[:4]}


@case
def timm_convnext() -> Case:
    import timm

    model = timm.create_model("convnext_atto", depths=(1, 1, 1, 1), dims=(8, 8, 16, 16), num_classes=3)
    return model, class_loss, {"x": pixels(), "y": classes()}


assert N >= 4
