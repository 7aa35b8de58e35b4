"""Where an image encoder starts: at random, at a former export, or (timm) at a local weights file."""

from pathlib import Path
from typing import Any

from sfumato.base import BadInput
from sfumato.models.encoder_export import load_encoder, public_preprocess
from sfumato.models.encoder_train import choose_encoder
from sfumato.models.encoders import PLAIN, Encoder, kind_of, make_encoder, plain_settings, settings_of
from sfumato.models.folders import locate
from sfumato.models.foreign import names_the_model
from sfumato.models.initialise import as_key, initialise
from sfumato.models.modeling_sfumato_encoders import ResNet18Plain, SmallConv, settle
from sfumato.models.modeling_sfumato_timm import TimmEncoder
from sfumato.models.started import StartedTowers
from sfumato.models.timm_start import BATCH_NORMS, timm_encoder, timm_normalisation
from sfumato.models.two_views import TwoViewTowers

_HALF = {"mean": [0.5], "std": [0.5]}  # what the pictures of `data.Preprocess` have unless told otherwise


@names_the_model
def start_encoder(
    *,
    kind: str,
    image_size: int,
    channels: int = 3,
    width: int = 8,
    seed: bytes | int,
    init: str | Path | None = None,
    train: str = "all",
    batch_norm: str = "group",
) -> StartedTowers:
    """Return an image encoder for two-view self-supervision, ready to train.

    Args:
        kind: `small-conv`, `resnet18`, `resnet18-group`, `micro`, `timm:NAME`, or `timm:NAME:FILE` with a local weights
            file. Nothing is downloaded.
        image_size: pixels of a side.
        channels: 3, or 1 for gray pictures.
        width: d, entries of an embedding.
        seed: 32 secret bytes, or a number. The initial weights are a function of it alone, and are public.
        init: folder of a former export (or run) of the same kind, or None.
        train: `all`, `heads` or `last-K` (see `encoder_train.choose_encoder`).
        batch_norm: of a timm model that has BatchNorm: `group` puts GroupNorm in its place, from scratch only;
            `frozen` keeps statistics, weights and biases as the weights file has them, also after `model.train()`.

    Raises:
        BadInput: naming the setting, what the folder lacks, or what does not fit.
    """
    _check(image_size=image_size, channels=channels, width=width, batch_norm=batch_norm)
    fields: dict[str, Any] = {"image_size": image_size, "channels": channels, "width": width, "batch_norm": batch_norm}
    if init is None:
        model, normalisation, notes = _fresh(kind, as_key(seed), fields)
    else:
        model, normalisation, notes = _former(kind, init, fields)
    weight = next(model.parameters())
    training = choose_encoder(model, train, weight.new_zeros(1, channels, image_size, image_size))
    return StartedTowers(
        model=model.train(),
        embed=TwoViewTowers(),
        tokenizer=None,
        preprocess=public_preprocess({**normalisation, "image_size": image_size, "channels": channels}),
        training=training,
        notes=notes,
        log_scale=None,
    )


def _check(*, image_size: int, channels: int, width: int, batch_norm: str) -> None:
    for name, value in (("image_size", image_size), ("width", width)):
        if value < 1:
            raise BadInput(f"{name} must be >= 1, got {value}.")
    if channels not in (1, 3):
        raise BadInput(f"channels must be 1 or 3, got {channels}.")
    if batch_norm not in BATCH_NORMS:
        raise BadInput(f"batch_norm is {' or '.join(BATCH_NORMS)}, got {batch_norm!r}.")


def parse_kind(kind: str) -> tuple[str, str | None, str | None]:
    """Return the kind without a model's name, timm's name, and the weights file; BadInput lists the kinds."""
    parts = kind.split(":", 2)
    if kind in PLAIN:
        return kind, None, None
    if parts[0] == "timm" and len(parts) > 1 and all(parts):
        return "timm", parts[1], parts[2] if len(parts) > 2 else None
    raise BadInput(f"kind is {', '.join(PLAIN)}, timm:NAME or timm:NAME:FILE, got {kind!r}.")


Origin = tuple[Encoder, dict[str, Any], tuple[str, ...]]


def _fresh(kind: str, key: bytes, fields: dict[str, Any]) -> Origin:
    family, name, file = parse_kind(kind)
    if name is not None:
        model = timm_encoder(name, file, key=key, **fields)
        norms = {"group": ", GroupNorm in the place of BatchNorm", "frozen": ", BatchNorm frozen"}
        origin = f"weights of {file}, last layer random" if file else "random weights"
        note = f"timm {name}: {origin}{norms.get(model.settings.batch_norm, '')}"
        known = file is not None and fields["channels"] == 3
        return model, timm_normalisation(name) if known else _HALF, (note,)
    shape = {name: fields[name] for name in ("image_size", "channels", "width")}
    model = make_encoder(family, plain_settings(family, **shape))
    initialise(model, key, None)
    if isinstance(model, SmallConv | ResNet18Plain):
        settle(model)
    return model, _HALF, (f"random weights of {kind}",)


def _former(kind: str, init: str | Path, fields: dict[str, Any]) -> Origin:
    family, name, file = parse_kind(kind)
    if file is not None:
        raise BadInput(f"both a weights file ({file}) and init ({init}) are given: leave one out.")
    loaded = load_encoder(init)
    model: Any = loaded.model
    path, settings = locate(init), settings_of(model)
    found = f"timm:{settings['name']}" if isinstance(model, TimmEncoder) else kind_of(model)
    if found != (kind if name is None else f"timm:{name}"):
        raise BadInput(f"{path} holds the encoder {found}, the kind asked for is {kind}.")
    own = {"channels": settings["channels"], "width": settings["width"]}
    if isinstance(model, TimmEncoder):
        own |= {"image_size": settings["image_size"] or fields["image_size"]}
        own |= {"batch_norm": fields["batch_norm"] if settings["batch_norm"] == "none" else settings["batch_norm"]}
    for setting, value in own.items():
        if value != fields[setting]:
            raise BadInput(f"{path} has {setting} {value}, asked for is {fields[setting]}.")
    if family == "micro":
        plain_settings(family, **{name: fields[name] for name in ("image_size", "channels", "width")})  # big enough?
    normalisation = {name: loaded.preprocess[name] for name in ("mean", "std")}
    return model, normalisation, (f"{found} of {path}",)
