"""What a host (Lightning, Accelerate, transformers' Trainer, any loop) must not do around a private step.

Hosts come with habits that undo a private step without a word: a second backward pass that adds raw gradients to the
released ones, wrappers that reduce or shard them, accumulation that throws releases away, an autocast of their own. All
of it shows in torch itself, so it is looked for there, and no host is imported.
"""

import logging
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from sfumato import norms
from sfumato.base import BadInput
from sfumato.train.world import World

logger = logging.getLogger(__name__)

_WRAPPERS = {
    "DistributedDataParallel": "pass the model inside (model.module): the ranks' clipped sums are added up here",
    "DataParallel": "pass the model inside (model.module), and start one process per device with torchrun",
    "FullyShardedDataParallel": "pass the whole model: every rank holds all of it",
    "FSDPModule": "pass the whole model: every rank holds all of it",
    "DeepSpeedEngine": "pass the model inside (engine.module)",
    "OptimizedModule": "pass the model that is not compiled",
}


def check_plain(model: nn.Module) -> None:
    """Refuse a model that something else wraps, shards, compiles or casts.

    Raises:
        BadInput: naming the wrapper, and what to pass in its place.
    """
    norms.refuse_unmeasurable(norms.trainable(model))
    for name, module in model.named_modules():
        where = f"{name} of the model" if name else "the model"
        for kind in (base.__name__ for base in type(module).__mro__):
            if kind in _WRAPPERS:
                raise BadInput(f"{where} is wrapped in {kind}: {_WRAPPERS[kind]}.")
        if getattr(module, "_compiled_call_impl", None) is not None:
            raise BadInput(f"{where} is compiled (Module.compile): its layers cannot be measured; leave it as it is.")
        if "_original_forward" in vars(module):
            raise BadInput(
                f"{where} was given an autocast of its own by accelerator.prepare: do not prepare the model, and pass "
                "PrivateGradients(autocast=torch.bfloat16)."
            )


def check_stepped(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Refuse an optimizer of other parameters than those that are trained.

    Raises:
        BadInput: it lacks a trainable parameter of the model, or has one that the model has not.
    """
    stepped = {id(p) for group in optimizer.param_groups for p in group["params"]}
    lacking = [name for name, p in model.named_parameters() if p.requires_grad and id(p) not in stepped]
    if lacking:
        more = f" and {len(lacking) - 3} more" if len(lacking) > 3 else ""
        raise BadInput(
            f"the optimizer lacks {', '.join(lacking[:3])}{more}: their gradients would be charged and never applied. "
            "Make it of the model's parameters, or freeze these with requires_grad_(False)."
        )
    foreign = len(stepped - {id(p) for p in model.parameters()})
    if foreign:
        raise BadInput(
            f"the optimizer has {foreign} parameters that do not belong to the model: they get no private gradient. "
            "Make it of the parameters of the model that is passed, once the model is complete."
        )


def check_precision(device: torch.device) -> None:
    """Refuse a step inside someone else's autocast. Raises BadInput naming the setting."""
    if torch.is_autocast_enabled(device.type):  # norms would be taken in low precision, and clip too little
        raise BadInput(
            "private.backward was called inside torch.autocast (a trainer's mixed precision): set the trainer to full "
            "precision, and pass PrivateGradients(autocast=torch.bfloat16), which keeps norms and sums exact."
        )


def check_world(world: World) -> None:
    """Refuse a step in a world that grew after the run was made. Raises BadInput with both sizes."""
    joined = dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
    if joined != world.size:
        raise BadInput(
            f"{joined} processes run, but PrivateGradients was made when there was {world.size}: make it after the "
            "trainer has joined the processes, or start them with torchrun."
        )


def plain_optimizer(optimizer: Any) -> Any:
    """Return the torch optimizer that steps in the end: Accelerate's and Lightning's stand around one.

    Raises:
        BadInput: it comes with a GradScaler.
    """
    while isinstance(inner := getattr(optimizer, "optimizer", None), torch.optim.Optimizer):
        if getattr(optimizer, "scaler", None) is not None:
            raise BadInput(
                "the optimizer comes with a GradScaler, which would divide released gradients by a scale that they "
                "were never multiplied by: train in bfloat16, or float16 with PrivateGradients(loss_scale=...)."
            )
        optimizer = inner
    return optimizer


class Watch:
    """Watches a model and its optimizer while a run is open, by hooks of torch that `close` takes off again.

    Args:
        model: a backward pass that reaches one of its trainable parameters raises BadInput before any step.
        optimizer: if given, each of its steps must apply one released gradient, and each gradient be applied.
        world: the ranks of the run.
        joined: whether `world` is that of torch.distributed, and not the caller's own.
    """

    def __init__(
        self, model: nn.Module, optimizer: torch.optim.Optimizer | None, world: World, *, joined: bool
    ) -> None:
        self._model, self._optimizer = model, optimizer
        self._world, self._joined = world, joined
        self._parameters: list[nn.Parameter] = []
        self._handles: list[RemovableHandle] = []
        self._begun = False
        self._waiting: int | None = None  # the step whose release was not applied yet
        self._applied = False  # whether any was
        self._depth = 0  # of steps within steps

    def open(self) -> None:
        """Put the hooks on. Called when the fingerprint is settled: from then on the model is what it speaks of."""
        self.close()
        check_plain(self._model)
        if self._optimizer is not None:
            check_stepped(self._model, self._optimizer)
        self._parameters = _trained(self._model)
        hooked = [parameter.register_post_accumulate_grad_hook(self.refuse_raw) for parameter in self._parameters]
        self._handles = [*hooked]
        if self._optimizer is not None:
            self._handles.append(self._optimizer.register_step_pre_hook(self.count))
            self._handles.append(self._optimizer.register_step_post_hook(self.leave))

    def before(self, step: int) -> None:
        """Called before a step is computed.

        Raises:
            BadInput: model, precision or processes were changed from outside, or the last release was not applied.
        """
        if not self._begun:
            check_plain(self._model)  # again: a trainer may have wrapped it since
        check_precision(self._world.device)
        if self._joined:
            check_world(self._world)
        now = _trained(self._model)
        if len(now) != len(self._parameters) or any(p is not q for p, q in zip(now, self._parameters, strict=True)):
            raise BadInput(
                "the model's trainable parameters are not those that the loader was made for (sharded, frozen or "
                "replaced since): make it when the model is complete, and keep the model whole on every rank."
            )
        if not self._begun and self._optimizer is not None:
            check_stepped(self._model, self._optimizer)
        self._begun = True
        if self._optimizer is not None and self._waiting is not None:
            self._not_applied(self._waiting)

    def _not_applied(self, step: int) -> None:
        """Some releases applied and some not is accumulation; none at all may be a study of constant weights."""
        found = f"step {step} was charged, but no optimizer.step() applied its gradient"
        if self._applied:
            raise BadInput(
                f"{found}: a trainer that accumulates gradients throws releases away. Set its accumulation to 1: a "
                "logical batch of any size is one private.backward."
            )
        if step == 0:
            logger.warning("%s: without one the model stays as it is.", found)

    def released(self, step: int) -> None:
        """Called when the released gradient of a step is in `p.grad`."""
        self._waiting, self._depth = step, 0

    def forget(self) -> None:
        """Called when the run goes back to a checkpoint."""
        self._waiting = None

    def close(self) -> None:
        """Take the hooks off."""
        for handle in self._handles:
            handle.remove()

    def refuse_raw(self, parameter: Tensor) -> None:
        """Hook: an ordinary backward pass has just added to `p.grad`. It is emptied, and nothing can be stepped."""
        parameter.grad = None
        raise BadInput(
            "loss.backward() reached a trainable parameter of a private run, which would step on gradients without "
            "noise: leave private.backward alone to set them (Lightning: automatic_optimization = False). After the "
            "run, private.close() lets the model go."
        )

    def count(self, *_: object) -> None:
        """Hook: the optimizer is about to step. A subclass that calls its parent's step comes here twice."""
        if self._depth == 0 and self._waiting is None:
            raise BadInput(
                "optimizer.step() without a private.backward before it: each released gradient is applied once "
                "(Lightning: automatic_optimization = False)."
            )
        self._waiting, self._applied = None, True
        self._depth += 1

    def leave(self, *_: object) -> None:
        """Hook: the optimizer has stepped."""
        self._depth -= 1


def _trained(model: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]
