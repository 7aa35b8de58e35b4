"""Small vision-language checkpoints of every kind as local folders, with tokenizers and processors made offline."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers as hf
from safetensors.torch import save_file
from tests.models.conftest import jitter
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, pre_tokenizers, processors, trainers
from tokenizers.models import BPE

from sfumato.evaluate import answerer
from sfumato.models import StartedVlm, Tokenizer, start_vlm

SIDE, PATCH = 16, 8
TEXTS = ["what color is the circle ?", "is there a red square ?", "how many boots ?", "yes no two red blue circles"]
QUESTIONS = ["what color is the circle ?", "how many ?", "is there a red square above two blue circles ?", "red ?"]
ANSWERS = ["red", "two blue", "yes", ""]
SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
VISION = SMALL | {"image_size": SIDE, "patch_size": PATCH}
FOLDERS: dict[str, Callable[[Path], None]] = {}


def folder(function: Callable[[Path], None]) -> Callable[[Path], None]:
    FOLDERS[function.__name__] = function
    return function


def byte_pairs(*special: str, **roles: str) -> hf.PreTrainedTokenizerFast:
    """A byte-level tokenizer in which white space matters, as LLaVA's and Qwen's are."""
    backend = Backend(BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    names = [*dict.fromkeys([*roles.values(), *special])]
    trainer = trainers.BpeTrainer(
        vocab_size=330, special_tokens=names, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    backend.train_from_iterator(TEXTS, trainer)
    if "bos_token" in roles:
        bos = roles["bos_token"]
        backend.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, backend.token_to_id(bos))]
        )
    return hf.PreTrainedTokenizerFast(tokenizer_object=backend, **roles)


def word_pieces() -> hf.PreTrainedTokenizerFast:
    """BERT's kind, with [CLS] and [SEP] around a text."""
    made = Tokenizer.from_public_text(TEXTS).backend
    ids = made.get_vocab()
    made.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[(name, ids[name]) for name in ("[CLS]", "[SEP]")]
    )
    return made


def clip_images(**more: Any) -> Any:
    square = {"height": SIDE, "width": SIDE}
    return hf.CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size=square, **more)


def blip_config(size: int) -> hf.BlipConfig:
    text = SMALL | {
        "vocab_size": size, "max_position_embeddings": 24, "encoder_hidden_size": 16, "bos_token_id": 2,
        "sep_token_id": 3, "eos_token_id": 3, "pad_token_id": 0, "projection_dim": 16,
    }  # fmt: skip
    return hf.BlipConfig(text_config=text, vision_config=VISION, projection_dim=16)


def _blip(model_class: Any, path: Path) -> None:
    tokenizer = word_pieces()
    _save(model_class(blip_config(len(tokenizer))), path)
    images = hf.BlipImageProcessor(size={"height": SIDE, "width": SIDE})
    hf.BlipProcessor(images, tokenizer).save_pretrained(path)


@folder
def blip(path: Path) -> None:
    _blip(hf.BlipForQuestionAnswering, path)


@folder
def blip_caption(path: Path) -> None:
    _blip(hf.BlipForConditionalGeneration, path)


def _blip2(text: Any, tokenizer: Any, path: Path) -> None:
    former = SMALL | {"vocab_size": 30, "encoder_hidden_size": 16, "cross_attention_frequency": 1}
    config = hf.Blip2Config(
        vision_config=VISION, qformer_config=former, text_config=text, num_query_tokens=3,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
    )  # fmt: skip
    _save(hf.Blip2ForConditionalGeneration(config), path)
    images = hf.BlipImageProcessor(size={"height": SIDE, "width": SIDE})
    hf.Blip2Processor(images, tokenizer, num_query_tokens=3).save_pretrained(path)


@folder
def blip2_opt(path: Path) -> None:
    tokenizer = byte_pairs("<image>", bos_token="</s>", eos_token="</s>", pad_token="<pad>")
    text = hf.OPTConfig(
        vocab_size=len(tokenizer), hidden_size=16, word_embed_proj_dim=16, num_hidden_layers=2, num_attention_heads=2,
        ffn_dim=24, max_position_embeddings=64, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    _blip2(text, tokenizer, path)


@folder
def blip2_t5(path: Path) -> None:
    tokenizer = byte_pairs("<image>", eos_token="</s>", pad_token="<pad>")
    text = hf.T5Config(
        vocab_size=len(tokenizer), d_model=16, d_kv=8, d_ff=24, num_layers=2, num_heads=2,
        decoder_start_token_id=tokenizer.pad_token_id, pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id, feed_forward_proj="gated-gelu",
    )  # fmt: skip
    _blip2(text, tokenizer, path)


@folder
def git(path: Path) -> None:
    tokenizer = word_pieces()
    config = hf.GitConfig(
        vision_config=VISION, **SMALL, vocab_size=len(tokenizer), max_position_embeddings=32, pad_token_id=0,
        bos_token_id=2, eos_token_id=3,
    )  # fmt: skip
    _save(hf.GitForCausalLM(config), path)
    hf.GitProcessor(clip_images(), tokenizer).save_pretrained(path)


def _llama(size: int, **more: Any) -> dict[str, Any]:
    return SMALL | {"vocab_size": size, "num_key_value_heads": 1, "max_position_embeddings": 128} | more


@folder
def llava(path: Path) -> None:
    tokenizer = byte_pairs("<image>", bos_token="<s>", eos_token="</s>", pad_token="<pad>")
    config = hf.LlavaConfig(
        vision_config=hf.CLIPVisionConfig(**VISION), text_config=hf.LlamaConfig(**_llama(len(tokenizer))),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
    )  # fmt: skip
    _save(hf.LlavaForConditionalGeneration(config), path)
    hf.LlavaProcessor(
        clip_images(), tokenizer, patch_size=PATCH, vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    ).save_pretrained(path)  # fmt: skip


@folder
def paligemma(path: Path) -> None:
    tokenizer = byte_pairs("<image>", bos_token="<bos>", eos_token="<eos>", pad_token="<pad>")
    images = hf.SiglipImageProcessor(size={"height": SIDE, "width": SIDE})
    images.image_seq_length = (SIDE // PATCH) ** 2
    processor = hf.PaliGemmaProcessor(images, tokenizer)
    config = hf.PaliGemmaConfig(
        vision_config=hf.SiglipVisionConfig(**VISION, vision_use_head=False, projection_dim=16),
        text_config=hf.GemmaConfig(**_llama(len(tokenizer), head_dim=8)), projection_dim=16,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
    )  # fmt: skip
    _save(hf.PaliGemmaForConditionalGeneration(config), path)
    processor.save_pretrained(path)


QWEN_CHAT = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% for c in m['content'] %}{% if c['type'] == 'image' %}"
    "<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ c['text'] }}{% endif %}{% endfor %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@folder
def qwen2_vl(path: Path) -> None:
    marks = ("<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
    tokenizer = byte_pairs(*marks, eos_token="<|endoftext|>", pad_token="<|endoftext|>")
    ids = tokenizer.convert_tokens_to_ids
    config = hf.Qwen2VLConfig(
        vision_config={
            "depth": 2, "embed_dim": 16, "hidden_size": 16, "num_heads": 2, "mlp_ratio": 2, "patch_size": 4,
        },
        text_config=_llama(
            len(tokenizer), rope_scaling={"type": "mrope", "mrope_section": [2, 1, 1], "rope_type": "default"},
            bos_token_id=None, eos_token_id=ids("<|im_end|>"),
        ),
        image_token_id=ids("<|image_pad|>"), video_token_id=ids("<|video_pad|>"),
        vision_start_token_id=ids("<|vision_start|>"), vision_end_token_id=ids("<|vision_end|>"),
    )  # fmt: skip
    _save(hf.Qwen2VLForConditionalGeneration(config), path)
    images = hf.Qwen2VLImageProcessor(patch_size=4)
    videos = hf.Qwen2VLVideoProcessor(patch_size=4)
    hf.Qwen2VLProcessor(images, tokenizer, videos, chat_template=QWEN_CHAT).save_pretrained(path)


IDEFICS_CHAT = (
    "<|im_start|>{% for m in messages %}{{ m['role'] }}:{% for c in m['content'] %}{% if c['type'] == 'image' %}<image>"
    "{% else %}{{ c['text'] }}{% endif %}{% endfor %}<end_of_utterance>\n{% endfor %}"
    "{% if add_generation_prompt %}Assistant:{% endif %}"
)


def _idefics(config_class: Any, model_class: Any, path: Path) -> None:
    marks = ("<image>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>")
    tokenizer = byte_pairs(*marks, bos_token="<|im_start|>", eos_token="<|endoftext|>", pad_token="<pad>")
    config = config_class(
        vision_config=VISION, text_config=hf.LlamaConfig(**_llama(len(tokenizer))), scale_factor=2,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"), pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    _save(model_class(config), path)
    images = hf.Idefics3ImageProcessor(size={"longest_edge": 2 * SIDE}, max_image_size={"longest_edge": SIDE})
    hf.Idefics3Processor(images, tokenizer, image_seq_len=1, chat_template=IDEFICS_CHAT).save_pretrained(path)


@folder
def idefics3(path: Path) -> None:
    _idefics(hf.Idefics3Config, hf.Idefics3ForConditionalGeneration, path)


@folder
def smolvlm(path: Path) -> None:
    _idefics(hf.SmolVLMConfig, hf.SmolVLMForConditionalGeneration, path)  # its processor without the video part


COCA = {
    "embed_dim": 16,
    "vision_cfg": {
        "image_size": SIDE, "layers": 2, "width": 16, "head_width": 8, "patch_size": PATCH, "attentional_pool": True,
        "attn_pooler_heads": 2, "output_tokens": True,
    },
    "text_cfg": {
        "context_length": 32, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2, "embed_cls": True,
        "output_tokens": True,
    },
    "multimodal_cfg": {
        "context_length": 32, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2, "attn_pooler_heads": 2,
    },
    "custom_text": True,
}  # fmt: skip


@folder
def coca(path: Path) -> None:
    import open_clip

    path.mkdir(exist_ok=True)
    torch.manual_seed(5)
    model = open_clip.CoCa(**{name: value for name, value in COCA.items() if name != "custom_text"})
    torch.nn.init.normal_(model.text_decoder.text_projection, std=0.1)  # open_clip leaves it as memory was
    jitter(model)
    (path / "open_clip_config.json").write_text(json.dumps({"model_cfg": COCA}))
    tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    save_file(tensors, path / "open_clip_model.safetensors")


def _save(model: Any, path: Path) -> None:
    torch.manual_seed(5)
    jitter(model).save_pretrained(path)


def pictures(count: int = 4, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 256, (20 + 3 * n, 24, 3), dtype=np.uint8) for n in range(count)]


def started(kind: str, path: Path, **settings: Any) -> StartedVlm:
    """A small model of any kind, started as a user would, in float64."""
    if not any(path.glob("*config.json")):
        FOLDERS[kind](path)
    options: dict[str, Any] = {"max_question": 8, "max_answer": 4, "dtype": "float64"} | settings
    if kind == "qwen2_vl":
        options.setdefault("image_size", SIDE)
    return start_vlm(path, **options)


def batch_of(made: StartedVlm, count: int = 4) -> dict[str, torch.Tensor]:
    rows = [made.family.encode(*row) for row in zip(pictures(), QUESTIONS, ANSWERS, strict=True)][:count]
    return as_batch(made, rows)


def as_batch(made: StartedVlm, rows: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    batch = {name: torch.stack([row[name] for row in rows]) for name in rows[0]}
    dtype = next(made.model.parameters()).dtype
    return {name: value.to(dtype) if value.is_floating_point() else value for name, value in batch.items()}


def answers(made: StartedVlm, shown: list[np.ndarray], questions: list[str]) -> list[str]:
    """The greedy answers, as evaluation asks for them."""
    answer = answerer(made.model, made.family, max_new_tokens=made.facts["max_answer"]).answer
    assert answer is not None
    return answer(shown, questions)
