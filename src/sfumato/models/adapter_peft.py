"""peft's layers in a model, and its folders: LoRA and DoRA put into a module tree in place.

What sfumato writes here is peft's own format; `PeftModel.from_pretrained` reads it without sfumato.
"""

import copy
import importlib.util
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from sfumato.base import BadInput
from sfumato.base.reason import reason
from sfumato.models.folders import read_json
from sfumato.models.whole_folder import whole_folder

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_NAME = "default"
_PREFIX = "base_model.model."  # how peft names what it wraps


def require_peft() -> Any:
    """Return the package; BadInput with the command that installs it."""
    if importlib.util.find_spec("peft") is None:
        raise BadInput('adapters (lora, dora) need peft: pip install "sfumato[peft]".')
    import peft

    return peft


def put_lora(
    model: Any,
    targets: list[str],
    *,
    rank: int,
    alpha: float,
    dropout: float,
    dora: bool,
    kept: tuple[str, ...],
    base: str,
) -> None:
    """Put LoRA (Hu et al. 2022) or DoRA (Liu et al. 2024) on the named linear layers, in place.

    The model keeps its class and its call; a target `x` becomes `x.base_layer`, `x.lora_A.default`, `x.lora_B.default`
    (and `x.lora_magnitude_vector.default`), a module of `kept` that trains whole `x.modules_to_save.default`. Both are
    full names: peft takes every name that ends as one of them, `input_layernorm` for `norm`.

    Raises:
        BadInput: the model carries an adapter already, or peft would put one elsewhere too.
    """
    peft = require_peft()
    if is_adapted(model):
        raise BadInput("the model carries an adapter already: merge it (merge_and_unload) or start from its base.")
    conv1d = {type(model.get_submodule(name)).__name__ == "Conv1D" for name in targets}
    config = peft.LoraConfig(
        r=rank,
        lora_alpha=alpha,
        lora_dropout=dropout,
        target_modules=list(targets),
        modules_to_save=list(kept) or None,
        bias="none",
        use_dora=dora,
        fan_in_fan_out=conv1d == {True},
    )
    with _still():
        peft.get_peft_model(model, config)
    model.peft_config[_NAME].base_model_name_or_path = base  # peft writes the path where the model was loaded from
    for wanted, sign, does in ((targets, "lora_A", "puts LoRA on"), (kept, "modules_to_save", "trains the whole of")):
        found = {name for name, module in model.named_modules() if hasattr(module, sign)}
        if found != set(wanted):
            raise BadInput(f"peft {does} {', '.join(sorted(found ^ set(wanted)))} too: name the modules in full.")
    if dora:
        _settle_magnitudes(model)


@torch.no_grad()
def _settle_magnitudes(model: nn.Module) -> None:
    """Set DoRA's magnitudes to the column norms in the adapter's precision, so that the start is the base exactly.

    peft takes them in the precision of the base, and divides by norms in that of the adapter.
    """
    for module in model.modules():
        if hasattr(module, "lora_magnitude_vector"):
            layer: Any = module
            magnitude = layer.lora_magnitude_vector[_NAME].weight
            weight = layer.get_base_layer().weight.to(magnitude.dtype)
            magnitude.copy_(torch.linalg.norm(weight.t() if layer.fan_in_fan_out else weight, dim=1))


def is_adapted(model: nn.Module) -> bool:
    """Whether the module tree carries an adapter of peft."""
    return any(getattr(module, "peft_config", None) is not None for module in model.modules())


@contextmanager
def _still() -> Iterator[None]:
    """Keep peft's advice, and what transformers says to peft, off the screen; what matters is checked after."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        warnings.filterwarnings("ignore", category=FutureWarning, module=r"transformers\.")
        yield


# ---------------------------------------------------------------- folders


def save_adapter(model: Any, folder: str | Path) -> Path:
    """Write the adapter of a model as peft does: adapter_config.json and adapter_model.safetensors; return the folder.

    Args:
        model: what carries the adapter itself, such as the text tower of a pair.

    Raises:
        BadInput: the model carries no adapter.
    """
    peft = require_peft()
    if getattr(model, "peft_config", None) is None:
        raise BadInput(f"a {type(model).__name__} carries no adapter of its own.")
    wrapped = isinstance(model, peft.PeftModel)
    found: dict[str, Tensor] = peft.get_peft_model_state_dict(model, save_embedding_layers=False)
    tensors = {
        name if wrapped else f"{_PREFIX}{name}": tensor.detach().cpu().contiguous().clone()
        for name, tensor in found.items()
    }
    config = copy.deepcopy(model.peft_config[_NAME])
    config.inference_mode = True
    kind = type(model)
    if not wrapped and kind.__module__.startswith("transformers."):  # what peft's AutoPeftModel looks for
        config.auto_mapping = {"base_model_class": kind.__name__, "parent_library": kind.__module__}
    with whole_folder(folder) as into:
        config.save_pretrained(str(into))
        save_file(tensors, into / WEIGHTS, metadata={"format": "pt"})
    return Path(folder)


def load_adapter(model: nn.Module, folder: str | Path, *, train: bool = False) -> nn.Module:
    """Put an adapter that peft or `save_adapter` wrote on a fresh base, in place, and return the base.

    Raises:
        BadInput: the folder holds no adapter, learned tokens instead of one, or one that does not fit the model.
    """
    peft, path = require_peft(), Path(folder)
    read_json(path / CONFIG)
    if not (path / WEIGHTS).is_file():
        raise BadInput(f"{path} has an {CONFIG} but no weights: {WEIGHTS} is missing.")
    try:
        with _still(), torch.random.fork_rng(devices=[]):
            wrapped: Any = peft.PeftModel.from_pretrained(model, str(path), is_trainable=train)
        with safe_open(path / WEIGHTS, "pt") as file:
            given = set(file.keys())
    except Exception as error:  # a library raises anything on a broken file
        raise BadInput(f"the adapter in {path} does not fit a {type(model).__name__}: {reason(error)}.") from error
    if wrapped.active_peft_config.is_prompt_learning:  # a wrapper around the model, which is called by its parts here
        raise BadInput(f"{path} holds learned tokens before the words, not LoRA or DoRA: load it with peft.")
    differ = sorted(given ^ set(peft.get_peft_model_state_dict(wrapped, save_embedding_layers=False)))
    if differ:  # peft leaves what is missing at its random start, and ignores what is too much
        more = f" and {len(differ) - 3} more" if len(differ) > 3 else ""
        raise BadInput(
            f"the adapter in {path} does not fit a {type(model).__name__}: only one of the two has "
            f"{', '.join(differ[:3])}{more}; the file is damaged, or belongs to another base."
        )
    return model


def base_state(model: nn.Module) -> dict[str, Tensor]:
    """Return the state of a model as it was before LoRA or DoRA were put into it, by its own names."""
    state = {}
    for name, tensor in model.state_dict().items():
        parts = name.split(".")
        if any(part.startswith("lora_") for part in parts) or "modules_to_save" in parts:
            continue
        state[".".join(part for part in parts if part not in ("base_layer", "original_module"))] = tensor
    return state
