"""The state of model and optimizer: hashed, saved, restored; and the one place where a gradient enters `p.grad`."""

import hashlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from sfumato.base import BadInput
from sfumato.mechanisms import Released


def device_of(model: nn.Module) -> torch.device:
    """Return the one device of the model's trainable parameters.

    Raises:
        BadInput: there are none, or on several devices, or on one without float64.
    """
    devices = {p.device for p in model.parameters() if p.requires_grad}
    if not devices:
        raise BadInput("the model has no parameter with requires_grad=True.")
    if len(devices) > 1 or {device.type for device in devices} - {"cpu", "cuda"}:
        raise BadInput(f"trainable parameters must be on one CPU or CUDA device, not on {sorted(map(str, devices))}.")
    return devices.pop()


def keyed_hash(tensors: Mapping[str, Tensor], key: bytes) -> str:
    """Return a hash of names, types, shapes and bits. Keyed: the ledger alone says nothing about a clipped sum."""
    total = hashlib.blake2b(key=key, digest_size=32)
    for name, tensor in tensors.items():
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\0".encode())
        total.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()


def moving_state(model: nn.Module) -> dict[str, Tensor]:
    """Return what steps may change: trainable parameters and buffers. Frozen weights show in the clipped sum."""
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    return {**trained, **dict(model.named_buffers())}


def reseed_model(key: bytes, device: torch.device) -> None:
    """Seed the generators that dropout draws from. (torch.manual_seed takes milliseconds, once per micro-batch.)"""
    number = int.from_bytes(key[:8], "big")
    torch.default_generator.manual_seed(number)
    if device.type == "cuda":
        torch.cuda.manual_seed(number)


def set_grads(model: nn.Module, released: Released) -> None:
    """Put the released gradient into `p.grad` of every trainable parameter, in place of whatever is there.

    Raises:
        TypeError: given anything but a `Released`.
    """
    if not isinstance(released, Released):
        raise TypeError(f"only a Released gradient may enter p.grad, got {type(released).__name__}.")
    for name, p in model.named_parameters():
        if p.requires_grad:
            p.grad = released.grads[name]


def state_of(model: nn.Module, optimizer: Any, scheduler: Any) -> dict[str, Any]:
    """Return what a checkpoint keeps of them."""
    return {
        "model": model.state_dict(),
        "optimizer": None if optimizer is None else optimizer.state_dict(),
        "scheduler": None if scheduler is None else scheduler.state_dict(),
    }


class OtherModelError(BadInput):
    """A checkpoint is of a model with other parameters or shapes."""


def restore(state: Mapping[str, Any], model: nn.Module, optimizer: Any, scheduler: Any) -> None:
    """Put back what `state_of` returned.

    Raises:
        OtherModelError: the checkpoint's parameters have other names or shapes.
        BadInput: the checkpoint was written without an optimizer or scheduler that is asked for.
    """
    _check_fits(state["model"], model)
    model.load_state_dict(state["model"])
    for name, part in (("optimizer", optimizer), ("scheduler", scheduler)):
        if part is None:
            continue
        if state[name] is None:
            raise BadInput(f"the checkpoint was saved without the {name}: pass it to private.save too.")
        part.load_state_dict(state[name])


def _check_fits(kept: Mapping[str, Any], model: nn.Module) -> None:
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items() if torch.is_tensor(value)}
    other = {name: tuple(value.shape) for name, value in kept.items() if torch.is_tensor(value)}
    unlike = sorted(name for name in shapes.keys() | other.keys() if shapes.get(name) != other.get(name))
    if unlike:
        more = f" and {len(unlike) - 3} more" if len(unlike) > 3 else ""
        raise OtherModelError(
            f"the checkpoint is of another model: {', '.join(unlike[:3])}{more} are missing or have other shapes. Go "
            "on with the model that it was written with, or name another folder."
        )
