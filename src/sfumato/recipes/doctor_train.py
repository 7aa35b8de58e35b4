"""What trains of a model that has no chooser of its own, by `models.adapt`; and what else could."""

from collections.abc import Callable, Iterable

from torch import Tensor, nn

from sfumato import models
from sfumato.base import BadInput, SfumatoError
from sfumato.base.reason import reason
from sfumato.models.adapter_targets import targets_of
from sfumato.models.encoder_train import set_training
from sfumato.models.freeze import unreached_by
from sfumato.norms.inspect import untouched
from sfumato.recipes.doctor_case import Asked, Choices, adapter_of

Reach = Callable[[nn.Module], Tensor]
PARTS = ("heads", "last-1", "bias")


def adapted(asked: Asked, model: nn.Module, reach: Reach) -> models.Adapted:
    """Set what trains as training would; what is frozen already, such as a held BatchNorm, stays frozen.

    Args:
        reach: a tensor that the model makes of made-up inputs: what it does not depend on is frozen.

    Raises:
        BadInput: the model does not have what is asked for, or made-up inputs do not fit it.
    """
    held = held_names(model)
    with untouched(model):
        found = models.adapt(model, asked.train, adapter_of(asked), reach=settled(reach))
    kept = [name for name in found.training.trainable if name not in held]
    training = set_training(found.model, set(kept), set(found.training.unreached))
    found.model.train()
    return models.Adapted(model=found.model, training=training, notes=found.notes, save=None)


def chosen(model: nn.Module, names: Iterable[str], reach: Reach) -> models.Training:
    """Let `names` train, less what is held and what no gradient reaches."""
    with untouched(model):
        out_of_reach = unreached_by(model, settled(reach))
    return set_training(model, set(names), out_of_reach)


def choices_of(model: nn.Module, reach: Reach) -> Choices:
    """Return what `adapt` could let train instead."""

    def choose(train: str) -> models.Training:
        with untouched(model):
            return models.adapt(model, train, reach=settled(reach)).training

    return Choices(names=PARTS, choose=choose, lora=lambda: (0, per_rank(model, reach)))


def per_rank(model: nn.Module, reach: Reach | None = None) -> int:
    """Return how many numbers LoRA of rank 1 trains on the projections of attention, in + out of each; of a model that
    carries LoRA, on the layers that it has.

    Raises:
        BadInput: no layer can carry it.
    """
    there = {name: p.shape for name, p in model.named_parameters() if ".lora_A." in name or ".lora_B." in name}
    if there:
        return sum(shape[1] if ".lora_A." in name else shape[0] for name, shape in there.items())
    with untouched(model):
        out_of_reach = unreached_by(model, settled(reach)) if reach else set()
    names, _ = targets_of(model, (), (), out_of_reach)
    return sum(sum(model.get_submodule(name).get_parameter("weight").shape) for name in names)


def held_names(model: nn.Module) -> set[str]:
    """Return the names of the parameters that do not train as the model is."""
    return {name for name, parameter in model.named_parameters() if not parameter.requires_grad}


def settled(reach: Reach) -> Reach:
    """Return `reach` in evaluation mode, so that no statistics move; a forward pass that fails is told in a sentence.

    Raises:
        BadInput: at the call, whatever a foreign model raises on made-up inputs.
    """

    def still(model: nn.Module) -> Tensor:
        was = [(module, module.training) for module in model.modules()]
        model.eval()
        try:
            return reach(model)
        except SfumatoError:
            raise
        except Exception as error:  # a foreign model's forward pass may raise anything
            why = reason(error)
            raise BadInput(f"a {type(model).__name__} cannot be fed with made-up rows here: {why}") from error
        finally:
            for module, training in was:
                module.training = training

    return still
