"""Flags over a recipe's settings: whatever a command gives takes the place of the field of the same name."""

from dataclasses import fields, replace
from typing import Any

from sfumato.base import BadInput
from sfumato.base.ranges import flag
from sfumato.recipes.privacy import Privacy
from sfumato.recipes.run import PARTS, Run

_NOT_OF_PARTS = ("seed", "kind", "data", "loss")  # a run's own seed is no setting of data or weights


def given(command: Any) -> dict[str, Any]:
    """Return the flags of a command (a dataclass) that were given: those that are not None."""
    return {f.name: value for f in fields(command) if (value := getattr(command, f.name)) is not None}


_EXCLUSIVE = (("epsilon", "noise_multiplier"), ("num_groups", "group_size"), ("vocabulary", "public_text"))


def check_pairs(command: Any) -> None:
    """Raise BadInput for flags that contradict one another."""
    flags = given(command)
    for one, other in _EXCLUSIVE:
        if one in flags and other in flags:
            raise BadInput(f"give one of {flag(one)} and {flag(other)}.")


def override(run: Run, command: Any) -> Run:
    """Return `run` with the flags of `command` in place; a noise multiplier takes the place of the target epsilon.

    Raises:
        BadInput: a value out of its range, or a warm-up that is longer than the run.
    """
    flags = given(command)
    if "noise_multiplier" in flags:
        run = replace(run, privacy=replace(run.privacy, epsilon=None))
    if "num_groups" in flags and "group_size" not in flags:  # of the recipe, which the flag takes the place of
        run = replace(run, privacy=replace(run.privacy, group_size=Privacy.group_size))
    for part in PARTS:
        settings = getattr(run, part)
        names = [f.name for f in fields(settings) if f.name in flags and f.name not in _NOT_OF_PARTS]
        run = replace(run, **{part: replace(settings, **{name: flags[name] for name in names})})
    if flags.get("warmup_steps", 0) > run.privacy.steps:
        raise BadInput(f"--warmup-steps {flags['warmup_steps']} is longer than the run's --steps, {run.privacy.steps}.")
    return run
