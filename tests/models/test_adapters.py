"""What trains of any model: lists by name, adapters' starts and notes, and every refusal."""

import copy
import sys

import open_clip
import pytest
import torch
import transformers as hf
from tests.models.adapted import CASES, TEXT, blip, clip, gpt2, llama, opt, small, t5, words
from torch import nn

from sfumato.base import BadInput
from sfumato.models import Adapter, adapt
from sfumato.models.adapter_blocks import heads_of, towers_of

SMALL = Adapter(rank=2)


def trained(model: nn.Module) -> set[str]:
    return {name for name, param in model.named_parameters() if param.requires_grad}


@pytest.mark.parametrize("train", ["all", "heads", "last-1", "bias", "lora", "dora"])
def test_every_parameter_is_in_one_list(train: str) -> None:
    model = llama()
    model.requires_grad_(train != "all")  # what was set before does not matter
    found = adapt(model, train, small(train))
    kinds = found.training
    listed = [*kinds.trainable, *kinds.frozen, *kinds.unreached, *kinds.absent]
    assert sorted(listed) == sorted(name for name, _ in found.model.named_parameters())
    assert trained(found.model) == set(kinds.trainable) != set()
    assert (found.save is not None) == (train in ("lora", "dora"))
    assert found.model is model


def test_heads_and_last_blocks() -> None:
    model = llama()
    heads = {"model.norm.weight", "lm_head.weight"}
    assert set(adapt(model, "heads").training.trainable) == heads
    last = set(adapt(model, "last-1").training.trainable)
    assert last == heads | {name for name, _ in model.named_parameters() if name.startswith("model.layers.1.")}
    both = adapt(model, "last-2").training
    assert both.frozen == ("model.embed_tokens.weight",)


def test_heads_of_several_towers() -> None:
    found = heads_of(clip())
    norms = {f"{tower}.{kind}" for tower in ("text_model.final_layer_norm", "vision_model.post_layernorm")
             for kind in ("weight", "bias")}  # fmt: skip
    assert found == norms | {"text_projection.weight", "visual_projection.weight"}
    assert len(towers_of(blip())) == 3
    assert {"vision_model.post_layernorm.bias", "text_decoder.cls.predictions.bias"} <= heads_of(blip())
    assert "model.decoder.final_layer_norm.weight" in heads_of(opt())  # made before its blocks
    assert "model.decoder.embed_positions.weight" not in heads_of(opt())


def test_blocks_in_blocks() -> None:
    assert set(towers_of(t5())) == {"encoder.block", "decoder.block"}  # not the parts of a block
    config = hf.SwinConfig(image_size=16, patch_size=2, embed_dim=8, depths=[1, 2], num_heads=[1, 1], window_size=2)
    swin = hf.SwinModel(config)
    assert set(towers_of(swin)) == {"encoder.layers.0.blocks", "encoder.layers.1.blocks"}
    assert heads_of(swin) == {"layernorm.weight", "layernorm.bias"}
    names = set(adapt(swin, "last-2").training.trainable)
    assert any(name.startswith("encoder.layers.1.blocks.0.") for name in names)
    assert not any(name.startswith(("encoder.layers.0.", "embeddings.")) for name in names)


def test_a_shorter_tower_trains_whole_and_says_so() -> None:
    model = t5()
    del model.decoder.block[1]
    found = adapt(model, "last-2")
    assert found.notes == ("decoder.block has only 1 blocks: all of them train",)
    assert any(name.startswith("decoder.block.0.") for name in found.training.trainable)
    with pytest.raises(BadInput, match="longest tower of a T5ForConditionalGeneration has only 2 blocks"):
        adapt(model, "last-3")


def test_bias_only() -> None:
    found = adapt(gpt2(), "bias").training
    assert all(name.endswith(".bias") for name in found.trainable)
    assert not any(name.endswith(".bias") for name in found.frozen)


def test_what_no_gradient_reaches_is_named() -> None:
    model = hf.BertModel(hf.BertConfig(**TEXT, hidden_dropout_prob=0.1))
    batch = words()
    state = torch.get_rng_state()

    def reach(model):
        return model(**batch).last_hidden_state

    for train in ("all", "heads", "bias", "lora"):
        found = adapt(copy.deepcopy(model), train, reach=reach) if train != "heads" else None
        if found is None:
            with pytest.raises(BadInput, match=r"leaves nothing to train: no gradient reaches pooler\.dense"):
                adapt(copy.deepcopy(model), train, reach=reach)
            continue
        assert {"pooler.dense.weight", "pooler.dense.bias"} == set(found.training.unreached)
    everywhere = adapt(model, "lora", Adapter(targets="all-linear"), reach=reach)
    assert "no LoRA on pooler.dense: no gradient reaches it" in everywhere.notes
    assert not any(name.startswith("pooler") for name in everywhere.training.trainable)
    assert torch.equal(torch.get_rng_state(), state)


# ---------------------------------------------------------------- LoRA and DoRA

ATTENTION = {  # linear layers of attention, of all linear layers that are no vocabulary heads
    "llama, filled right": (8, 14),
    "gpt2": (4, 8),
    "opt": (8, 12),
    "clip": (16, 26),
    "blip": (36, 49),
    "t5": (24, 32),
}


@pytest.mark.parametrize("name", ATTENTION)
def test_default_targets_are_the_projections_of_attention(name: str) -> None:
    for targets, count in zip(((), "all-linear"), ATTENTION[name], strict=True):
        found = adapt(CASES[name].make(), "lora", Adapter(rank=2, targets=targets))
        assert len([one for one in found.training.trainable if "lora_A" in one]) == count
        assert all("lora_" in one for one in found.training.trainable)
        assert found.notes[0] == f"LoRA of rank 2 on {count} linear layers"


@pytest.mark.parametrize("train", ["lora", "dora"])
@pytest.mark.parametrize("name", ["llama, filled right", "gpt2", "clip"])
def test_an_adapter_starts_as_its_base(name: str, train: str) -> None:
    case = CASES[name]
    base = case.make().eval()
    with torch.no_grad():
        wanted = case.loss(base, case.rows(torch.float32))
        found = adapt(copy.deepcopy(base), train, SMALL).model.eval()
        torch.testing.assert_close(case.loss(found, case.rows(torch.float32)), wanted)


def test_dora_in_half_precision_starts_as_its_base() -> None:
    base = llama().bfloat16().eval()
    found = adapt(copy.deepcopy(base), "dora", SMALL)  # the checkpoint came in half precision
    assert {dict(found.model.named_parameters())[name].dtype for name in found.training.trainable} == {torch.float32}
    for layer in found.model.modules():
        if hasattr(layer, "lora_magnitude_vector"):
            weight = layer.get_base_layer().weight.float()
            assert torch.equal(layer.lora_magnitude_vector["default"].weight, torch.linalg.norm(weight, dim=1))


@pytest.mark.parametrize("train", ["lora", "dora"])
def test_the_start_is_a_function_of_the_seed(train: str) -> None:
    state = torch.get_rng_state()
    made = []
    for seed in (1, 1, 2):
        base = llama()
        torch.set_rng_state(state)
        found = adapt(base, train, small(train), seed=seed)
        made.append(torch.cat([p.detach().flatten() for p in found.model.parameters() if p.requires_grad]))
        assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(made[0], made[1])
    assert not torch.equal(made[0], made[2])
    assert float(made[0].std()) < 0.5


def test_targets_are_ends_of_names() -> None:
    found = adapt(llama(), "lora", Adapter(rank=2, targets=("v_proj", "layers.1.mlp.up_proj"))).training.trainable
    carriers = {name.split(".lora_")[0] for name in found}
    assert carriers == {f"model.layers.{i}.self_attn.v_proj" for i in (0, 1)} | {"model.layers.1.mlp.up_proj"}


def test_modules_that_train_whole_are_ends_of_names_at_dots() -> None:
    """peft alone takes `input_layernorm` for `norm`."""
    whole = [name for name in adapt(llama(), "lora", Adapter(modules_to_save=("norm",))).training.trainable
             if "lora_" not in name]  # fmt: skip
    assert whole == ["model.norm.modules_to_save.default.weight"]
    with pytest.raises(BadInput, match=r"peft trains the whole of layers\.0\.input_layernorm.* too: name the modules"):
        adapt(llama().model, "lora", Adapter(modules_to_save=("norm",)))  # the name in full is the same word
    twice = adapt(llama(), "lora", Adapter(modules_to_save=("layers.1.mlp", "mlp"))).training.trainable
    assert {name.split(".modules_to_save.")[0] for name in twice if "lora_" not in name} == {
        "model.layers.0.mlp", "model.layers.1.mlp",
    }  # fmt: skip


def test_layers_that_are_called_functionally_carry_no_lora() -> None:
    model = hf.SiglipVisionModel(hf.SiglipVisionConfig(**{**SIGHT, "num_hidden_layers": 1}))
    found = adapt(model, "lora", SMALL)
    out = next(name for name, _ in model.named_modules() if name.endswith("head.attention.out_proj"))
    assert found.notes[1] == f"no LoRA on {out}: torch's attention calls it functionally"
    assert not any("head.attention" in name for name in found.training.trainable)
    model = hf.SiglipVisionModel(hf.SiglipVisionConfig(**{**SIGHT, "num_hidden_layers": 1}))
    with pytest.raises(BadInput, match=r"head\.attention\.out_proj cannot carry LoRA"):
        adapt(model, "lora", Adapter(targets=("head.attention.out_proj",)))


SIGHT = {
    "hidden_size": 16,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "image_size": 8,
    "patch_size": 4,
}


def test_open_clip_is_told_what_it_has() -> None:
    sight, text = {"image_size": 8, "layers": 1, "width": 16, "patch_size": 4, "head_width": 8}, {"context_length": 8}
    model = open_clip.model.CLIP(16, sight, {**text, "vocab_size": 40, "width": 16, "heads": 2, "layers": 1})
    assert {"text_projection", "visual.proj", "ln_final.weight"} <= heads_of(model)
    assert "token_embedding.weight" not in heads_of(model)
    with pytest.raises(BadInput, match=r"attn\.out_proj.* functionally\): there is mlp\.c_fc, mlp\.c_proj"):
        adapt(model, "lora")
    found = adapt(model, "lora", Adapter(rank=2, targets="all-linear"))
    assert len([name for name in found.training.trainable if "lora_A" in name]) == 4


# ---------------------------------------------------------------- refusals


def test_settings_are_checked() -> None:
    for settings, says in (
        ({"rank": 0}, "the rank of an adapter must be >= 1, got 0"),
        ({"alpha": 0.0}, "alpha of an adapter must be > 0"),
        ({"alpha": float("nan")}, "alpha of an adapter must be > 0"),
        ({"dropout": 1.0}, r"dropout of an adapter must be in \[0, 1\), got 1.0"),
        ({"dropout": -0.1}, "dropout of an adapter"),
        ({"frozen_dtype": "int8"}, "frozen_dtype is bfloat16 or float16, got 'int8'"),
        ({"targets": ("all-linear", "q_proj")}, "targets is all-linear or a list of names"),
    ):
        with pytest.raises(BadInput, match=says):
            Adapter(**settings)


def test_what_cannot_be_is_refused_by_name() -> None:
    model = llama()
    for train, adapter, says in (
        ("last-0", None, "train is all, heads, last-K .* got 'last-0'"),
        ("qlora", None, "train is all, heads, last-K .* got 'qlora'"),
        ("heads", Adapter(rank=4), "train=heads uses no adapter"),
        ("all", Adapter(frozen_dtype="bfloat16"), "half precision is for frozen weights under an adapter"),
        ("lora", Adapter(targets=("c_attn",)), r"no linear layer is named c_attn .*there is .*self_attn\.q_proj"),
        ("lora", Adapter(targets=("q_proj", "nope")), "no linear layer is named nope"),
        ("lora", Adapter(targets=("embed_tokens",)), r"model\.embed_tokens is a Embedding: LoRA goes on linear"),
        ("lora", Adapter(modules_to_save=("nope",)), "modules_to_save: no module of a LlamaForCausalLM is named nope"),
        ("lora", Adapter(modules_to_save=("lm_head",), frozen_dtype="float16"), "leave modules_to_save out, or load"),
        ("prompt", None, "train is all, heads, last-K .* lora or dora, got 'prompt'"),
        ("prefix", Adapter(), "train is all, heads, last-K .* lora or dora, got 'prefix'"),
    ):
        with pytest.raises(BadInput, match=says):
            adapt(model, train, adapter)
    assert not any("lora" in name for name, _ in model.named_parameters())
    with pytest.raises(BadInput, match="leave modules_to_save out, or load the checkpoint in float32"):
        adapt(model.half(), "lora", Adapter(modules_to_save=("lm_head",)))


def test_models_without_what_is_asked_for() -> None:
    plain = nn.Sequential(nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4))
    with pytest.raises(BadInput, match="a Sequential has no linear layers to put LoRA on"):
        adapt(plain, "lora")
    with pytest.raises(BadInput, match="train=heads: a Sequential has no list of blocks"):
        adapt(plain, "heads")
    with pytest.raises(BadInput, match="train=last-1: a Sequential has no list of blocks"):
        adapt(plain, "last-1")
    with pytest.raises(BadInput, match=r"no projection of attention .* Sequential: there is 0; targets='all-linear'"):
        adapt(nn.Sequential(nn.Linear(3, 4)), "lora")


def test_a_second_adapter_is_refused() -> None:
    for train in ("lora", "dora"):
        model = adapt(llama(), train, small(train)).model
        with pytest.raises(BadInput, match="carries an adapter already"):
            adapt(model, "lora", SMALL)


def test_quantised_weights_are_refused_by_name() -> None:
    instead = "not supported, not frozen either.*frozen_dtype='bfloat16'"
    model = llama()
    kind = type("Linear8bitLt", (nn.Linear,), {"__module__": "bitsandbytes.nn.modules"})
    model.model.layers[0].mlp.up_proj = kind(16, 24)
    with pytest.raises(BadInput, match=rf"model\.layers\.0\.mlp\.up_proj is a Linear8bitLt: .*{instead}"):
        adapt(model, "lora")
    model = llama()
    model.config.quantization_config = {"load_in_4bit": True}
    with pytest.raises(BadInput, match=f"configuration of the model has a quantization_config: .*{instead}"):
        adapt(model, "heads")
    model = llama()
    model.lm_head.weight = nn.Parameter(torch.zeros(40, 16, dtype=torch.int8), requires_grad=False)
    with pytest.raises(BadInput, match=rf"lm_head\.weight is stored as int8: .*{instead}"):
        adapt(model, "bias")


def test_peft_is_asked_for_by_name(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(BadInput, match=r'need peft: pip install "sfumato\[peft\]"'):
        adapt(llama(), "lora")
