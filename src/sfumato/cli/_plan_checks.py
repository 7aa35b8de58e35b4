"""Flags of `sfumato plan` that contradict one another, or that the plan asked for would ignore."""

from typing import Any

from sfumato.base import BadInput
from sfumato.base.ranges import flag

_GROUP = 16  # records of a group in expectation, where no number of groups is given


def refuse_unread(command: Any) -> None:
    """Raise BadInput for a flag that this plan would ignore; `command` is the parsed `PlanCommand`."""
    recipe, compare = command.recipe, command.compare
    read = {
        "num_groups": (recipe == "dp-gcl" and not compare, "dp-gcl"),
        "temperature": (recipe == "logit-dp" or compare, "logit-dp"),
        "loss": (recipe == "logit-dp" or compare, "logit-dp"),
        "clip": (recipe != "logit-dp" or compare, "recipes that do not clip pairs"),
        "image_size": (command.benchmark, "--benchmark"),
        "micro_batch_size": (command.benchmark, "--benchmark"),
        "tan": (not compare, "one recipe, not of --compare"),
    }
    for name, (is_read, by) in read.items():
        if not is_read and getattr(command, name) != getattr(type(command), name):
            raise BadInput(f"{flag(name)} is a setting of {by}: leave it out.")


def groups_of(num_groups: int | None, batch: float) -> int:
    """Return the number of groups of a step of `batch` expected records. Raises BadInput for more than records."""
    if num_groups is not None and num_groups > batch:
        raise BadInput(f"--num-groups {num_groups} exceeds the expected batch size, {batch:g}.")
    return num_groups or max(1, round(batch / _GROUP))
