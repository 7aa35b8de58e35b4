"""The adapter of a run, where what trains is one."""

from sfumato import models
from sfumato.base import BadInput
from sfumato.recipes.run import Adapter, Run


def adapter_of(run: Run) -> models.Adapter | None:
    """Return the adapter's settings, or None where something else trains.

    Raises:
        BadInput: settings of an adapter that would be ignored.
    """
    if run.model.train in models.ADAPTERS:
        return models.Adapter(**vars(run.adapter))
    if run.adapter != Adapter():
        raise BadInput(f"--train {run.model.train} has no adapter: leave out its settings, or train lora.")
    return None
