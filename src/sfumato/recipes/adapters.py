"""The adapter of a run, where what trains is one."""

from sfumato import models
from sfumato.base import BadInput
from sfumato.recipes.run import Adapter, Run


def adapter_of(run: Run) -> models.Adapter | None:
    """Return the adapter's settings, or None where something else trains; raises as `adapter_for`."""
    return adapter_for(run.model.train, run.adapter)


def adapter_for(train: str, settings: Adapter) -> models.Adapter | None:
    """Return the settings as `models` takes them, or None where `train` has no adapter.

    Raises:
        BadInput: settings of an adapter that would be ignored.
    """
    if train in models.ADAPTERS:
        return models.Adapter(**vars(settings))
    if settings != Adapter():
        raise BadInput(f"--train {train} has no adapter: leave out its settings, or train lora.")
    return None
