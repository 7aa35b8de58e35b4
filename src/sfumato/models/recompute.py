"""Gradient checkpointing, under whichever name transformers has it."""

from torch import nn

from sfumato.base import BadInput


def recompute_activations(model: nn.Module) -> None:
    """Let a transformers model keep fewer activations and compute them again in the backward pass.

    Raises:
        BadInput: it cannot.
    """
    enable = getattr(model, "activation_checkpointing_enable", getattr(model, "gradient_checkpointing_enable", None))
    if enable is None:
        raise BadInput("this model has no gradient checkpointing.")
    enable({"use_reentrant": False})  # the norm engine needs the backward pass to see the same graph
    # transformers then lets the embeddings' results require gradients, which re-entrant checkpointing alone needs: BLIP
    # and GIT, which add to them in place, would fail on frozen weights.
    model.disable_input_require_grads()  # pyright: ignore[reportCallIssue]
