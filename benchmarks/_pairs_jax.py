"""The published recipe in JAX, compiled and tiled, on the parameters and pictures of a bench; needs jax."""

from typing import Any

import jax
import jax.numpy as jnp
import torch
from _pairs_sides import LOSS, Bench, Gradient, Step, tiles

from sfumato.mechanisms.clip import MARGIN


def _convolution(parameters: dict[str, Any], name: str, x: Any, stride: int, padding: int) -> Any:
    sides = ((padding, padding), (padding, padding))
    found = jax.lax.conv_general_dilated(x, parameters[f"{name}.weight"], (stride, stride), sides)
    return found + parameters[f"{name}.bias"][:, None, None]


def _small(parameters: dict[str, Any], x: Any) -> Any:
    for layer in range(3):
        x = jax.nn.relu(_convolution(parameters, f"convolutions.{layer}", x, 2, 1))
    return x


def _resnet(parameters: dict[str, Any], x: Any) -> Any:
    x = jax.nn.relu(_convolution(parameters, "stem", x, 1, 1))
    for block in range(8):
        name = f"blocks.{block}"
        stride = 2 if block in (2, 4, 6) else 1
        inner = jax.nn.relu(_convolution(parameters, f"{name}.first", x, stride, 1))
        has_beside = f"{name}.beside.weight" in parameters
        beside = _convolution(parameters, f"{name}.beside", x, stride, 0) if has_beside else x
        x = jax.nn.relu(_convolution(parameters, f"{name}.second", inner, 1, 1) + beside)
    return x


_BODIES = {"conv": _small, "resnet18": _resnet}


def _embedding(model: str, parameters: dict[str, Any], x: Any) -> Any:
    """Return unit-norm embeddings (n, d) of pictures (n, 3, H, W)."""
    pooled = _BODIES[model](parameters, x).mean((2, 3))
    found = pooled @ parameters["head.weight"].T + parameters["head.bias"]
    return found / jnp.linalg.norm(found, axis=1, keepdims=True)


def _loss(similarity: Any) -> Any:
    """InfoNCE in both directions, a sum over rows, as `sfumato.losses` has it."""
    logits = similarity / LOSS.temperature
    both = jax.scipy.special.logsumexp(logits, 1) + jax.scipy.special.logsumexp(logits, 0)
    return (0.5 * both - jnp.diagonal(logits)).sum()


def recipe(bench: Bench, tile_limit: int | None = None) -> Step:
    """The gradient of every similarity materialised, clipped, weighted by D and added up."""
    model, bound = bench.cell.model, bench.cell.clip_norm * (1 - MARGIN)
    x, y = (jnp.asarray(bench.batch[name].numpy()) for name in ("x", "y"))
    places = [(jnp.asarray(i.numpy()), jnp.asarray(j.numpy())) for i, j in tiles(bench)[:tile_limit]]

    def similarity(parameters: Any, one: Any, other: Any) -> Any:
        return _embedding(model, parameters, one[None])[0] @ _embedding(model, parameters, other[None])[0]

    gradients = jax.vmap(jax.grad(similarity), in_axes=(None, 0, 0))

    @jax.jit
    def derivative(parameters: Any) -> Any:
        return jax.grad(_loss)(_embedding(model, parameters, x) @ _embedding(model, parameters, y).T)

    @jax.jit
    def add_tile(total: Any, parameters: Any, by_pair: Any, i: Any, j: Any) -> Any:
        found = gradients(parameters, x[i], y[j])
        squares = sum(jnp.square(value).reshape(len(i), -1).sum(1) for value in found.values())
        scale = jnp.minimum(bound / jnp.sqrt(jnp.maximum(squares, 1e-60)), 1.0) * by_pair[i, j]
        return {name: total[name] + jnp.tensordot(scale, value, 1) for name, value in found.items()}

    def step() -> Gradient:
        parameters = {name: jnp.asarray(value.detach().numpy()) for name, value in bench.parameters.items()}
        total = {name: jnp.zeros_like(value) for name, value in parameters.items()}
        by_pair = derivative(parameters)
        for i, j in places:
            total = add_tile(total, parameters, by_pair, i, j)
        return {name: torch.from_numpy(value.copy()) for name, value in jax.device_get(total).items()}

    return step
