"""`sfumato plan RECIPE`: what a training run will cost. Touches no data, imports no torch."""

import json
import sys
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from sfumato.base import BadInput, limits
from sfumato.base.ranges import Real, flag
from sfumato.cli import _plan_text
from sfumato.cli._flags import LossFlags, PrivacyFlags, UnitFlags
from sfumato.cli._screen import screen, show
from sfumato.cli.train import TrainCommand, run_of

if TYPE_CHECKING:  # importing the accountants takes a second, which --help need not wait for
    from sfumato.plan import Plan
    from sfumato.recipes.privacy import Loss
    from sfumato.recipes.run import Run
    from sfumato.sampling import Sampler

EXAMPLES = """
sfumato plan dp-cap --records 200000
sfumato plan dp-cap --records 200000 --epsilon 8 --json
sfumato plan dp-cap --records 200000 --noise-multiplier 1.1 --epsilon 4        # how many steps?
sfumato plan dp-cap --records 233804767 --expected-batch-size 1310720 --noise-multiplier 0.728 --steps 5708 \\
    --delta 4.28e-9
sfumato plan dp-cap --sampling-prob 0.01 --expected-batch-size 2000 --delta 1e-7 --epsilon 4    # N stays hidden
sfumato plan dp-cap --records 200000 --epsilon 8 --tan 16                      # a 16 times cheaper simulation
sfumato plan logit-dp --records 60000 --expected-batch-size 1000 --cap 1400 --temperature 0.5 --epsilon 8
sfumato plan dp-gcl --records 60000 --epsilon 8 --compare                      # which unit?
sfumato plan dp-vlm --records 20000 --num-parameters 600000                    # LoRA; sfumato doctor counts them
"""
TABLE_EPSILONS = (1.0, 2.0, 4.0, 8.0)
_OF_FOLDERS = ("dp-vqa", "dp-vlm")  # any model: nothing here knows its parameters


@dataclass(frozen=True, kw_only=True)
class PlanCommand(PrivacyFlags, UnitFlags, LossFlags):
    """Say what a private training run costs: noise, signal, what an attacker could know. Touches no data.

    The plan is the one that `sfumato train` would follow with the same flags on --records records. Without --epsilon
    and without --noise-multiplier: a table for epsilon 1, 2, 4 and 8. With --noise-multiplier alone: the epsilon of
    that run. With both, whichever of steps and batch size was left out, in this order, is chosen to meet epsilon.
    """

    recipe: Annotated[Literal["dp-cap", "dp-clip", "dp-gcl", "logit-dp", "dp-vqa", "dp-vlm"], tyro.conf.Positional] = (
        "dp-cap"
    )
    """What will be trained: dp-cap (a captioner, clipped per example), or with a contrastive loss: dp-clip (the whole
    batch's gradient is clipped), dp-gcl (those of small groups), logit-dp (those of all pairs), or answers to
    questions: dp-vqa, dp-vlm (clipped per record; --num-parameters says how many train)."""

    data: str = ""
    """The data set, where it is a built-in one: recipes have settings of their own for some. It is not opened."""

    records: Annotated[int | None, limits.RECORDS] = None
    """Number of records N (people, where one person owns several rows). It becomes public."""

    sampling_prob: Annotated[float | None, limits.PROBABILITY] = None
    """Instead of --records: the probability that a record is in a step. N stays hidden and is never printed; needs
    --expected-batch-size (the public divisor) and --delta."""

    relation: Literal["add_remove", "zero_out", "replace_one"] | None = None
    """Which data sets are neighbours. Default: zero_out with --records, add_remove with --sampling-prob, replace_one
    for fixed and full-batch."""

    sampler: Literal["poisson", "fixed", "full-batch"] | None = None  # pyright: ignore[reportIncompatibleVariableOverride]
    """How the records of a step are drawn."""

    compare: bool = False
    """Instead of one recipe: a table of all units (example, batch, groups of several sizes, pairs) at one epsilon."""

    accountant: Literal["pld", "rdp"] | None = None
    """Which accountant has to meet --epsilon. Default, as in training: pld where it is proved, else rdp."""

    size: Literal["pico", "micro", "nano", "tiny", "small", "base", "large"] | None = None
    """Size of the captioner: its number of trainable parameters decides the signal-to-noise ratio. Default: that of the
    recipe, or micro."""

    num_parameters: Annotated[int | None, limits.PARAMETERS] = None
    """Trainable parameters, where they are not those of --size (a small vocabulary, frozen parts)."""

    tan: Annotated[float | None, Real(1.0, 1e6)] = None
    """Also show the simulation at a batch and noise this many times smaller (TAN). It carries no epsilon."""

    benchmark: bool = False
    """Add hours and memory, measured here on synthetic inputs (needs PyTorch)."""

    image_size: Annotated[int | None, limits.IMAGE_SIZE] = None
    """Pixels of a side, for --benchmark. Default: 112 for pico and micro, else 224."""

    micro_batch_size: Annotated[int, limits.MICRO_BATCH] = 64
    """Rows in memory at once, for --benchmark."""

    json: bool = False
    """Print JSON: one object for one plan (the simulation, with --tan), a list for the table."""


def run(command: PlanCommand) -> int:
    """Print the table or the plan; return 0. Raises BadInput and Refused for what cannot be planned."""
    _refuse_unread(command)
    if command.compare:
        return _compare(command)
    plans = plans_of(command)
    rows = [_facts(command, plan) for plan in plans]
    if command.json:
        if command.tan is not None:
            rows = [_facts(command, plan.twin(command.tan)) for plan in plans]
        sys.stdout.write(json.dumps(rows[0] if len(rows) == 1 else rows, indent=2, allow_nan=False) + "\n")
        return 0
    console = screen()
    if len(rows) > 1:
        title = command.recipe + ("" if command.recipe in _OF_FOLDERS else f" {_size(command)}")
        show(console, _plan_text.head(title, plans[0], rows[0]))
        show(console, _plan_text.table(rows, plans))
    else:
        show(console, _plan_text.listing(rows[0], plans[0]))
    if command.tan is not None:
        for plan in plans:
            show(console, _plan_text.twin_sentence(plan.twin(command.tan), command.tan))
    for sentence in _plan_text.sentences(rows):
        show(console, sentence)
    return 0


def plans_of(command: PlanCommand) -> "list[Plan]":
    """Return the plans that the flags ask for: four of them for the table, else one.

    Raises:
        BadInput: flags are missing, contradict one another, or leave nothing to solve for.
        Refused: nothing meets the target, or the combination is not proved.
    """
    plan = _uncalibrated(command, run_planned(command))
    if command.epsilon is None:
        if command.noise_multiplier is not None:
            return [plan]
        return [plan.calibrated(epsilon=target, accountant=command.accountant) for target in TABLE_EPSILONS]
    return [plan.calibrated(epsilon=command.epsilon, accountant=command.accountant, solve=_missing(command, plan))]


def run_planned(command: PlanCommand) -> "Run":
    """Return the run that `sfumato train` would make of the flags that both commands have.

    Raises:
        BadInput: as training does, for flags that contradict one another or that the recipe would ignore.
    """
    shared = {f.name for parent in (PrivacyFlags, UnitFlags, LossFlags) for f in fields(parent)}
    flags = {name: getattr(command, name) for name in shared}
    if command.noise_multiplier is not None:
        flags["epsilon"] = None  # what it is then solved for
    folder = "MODEL" if command.recipe == "dp-vlm" else None
    return run_of(TrainCommand(recipe=command.recipe, data=command.data, model=folder, **flags))


def _missing(command: PlanCommand, plan: "Plan") -> Literal["noise_multiplier", "steps", "batch_size"]:
    from sfumato.plan import Example

    if command.noise_multiplier is None:
        return "noise_multiplier"
    if command.steps is None:
        return "steps"
    if command.expected_batch_size is None and command.sampling_prob is None and command.sampler != "full-batch":
        if not isinstance(plan.unit, Example) and command.num_groups is None and command.recipe != "dp-clip":
            raise BadInput("what is clipped depends on the batch size here: give --expected-batch-size.")
        return "batch_size"
    raise BadInput(
        "--noise-multiplier, --steps and the batch size fix epsilon: leave out one of them, or leave out --epsilon."
    )


def _uncalibrated(command: PlanCommand, run: "Run") -> "Plan":
    from sfumato.base import Relation

    more = {} if command.relation is None else {"relation": Relation(command.relation)}
    return run.privacy.uncalibrated(_sampler(command, run), run.loss, **more)


def _sampler(command: PlanCommand, run: "Run") -> "Sampler":
    from sfumato.sampling import FullBatch, Poisson

    sampler = command.sampler or run.privacy.sampler
    if (command.records is None) == (command.sampling_prob is None):
        raise BadInput("give --records, or --sampling-prob where the number of records is to stay hidden.")
    if command.records is None:
        if sampler != "poisson":
            raise BadInput(f"{sampler} sampling needs --records.")
        return Poisson(
            sampling_prob=command.sampling_prob, expected_batch_size=command.expected_batch_size, cap=command.cap
        )
    if command.records < 1:
        raise BadInput(f"--records must be at least 1, got {command.records}.")
    if sampler == "full-batch":
        if command.cap is not None:
            raise BadInput("--sampler full-batch takes all records: leave out --cap.")
        if command.expected_batch_size not in (None, command.records):
            raise BadInput("--sampler full-batch takes all records: leave out --expected-batch-size.")
        return FullBatch(num_records=command.records)
    return run.privacy.sampler_of(command.records)


def _refuse_unread(command: PlanCommand) -> None:
    """Raise BadInput for a flag that this plan would ignore; those of training are refused where the run is made."""
    read = {
        "image_size": (command.benchmark, "--benchmark"),
        "micro_batch_size": (command.benchmark, "--benchmark"),
        **dict.fromkeys(_OF_ONE, (not command.compare, "one recipe, not of --compare")),
    }
    for name, (is_read, by) in read.items():
        if not is_read and getattr(command, name) != getattr(type(command), name):
            raise BadInput(f"{flag(name)} is a setting of {by}: leave it out.")


COMPARED_GROUPS = (64, 16, 4)
_OF_ONE = ("tan", "unit", "num_groups", "group_size")  # what a comparison of all units leaves open
_OF_PAIRS = ("infonce", "sigmoid", "spread-out")


def compared(command: PlanCommand) -> "list[tuple[str, Plan]]":
    """Return the plans of all units for one data set, batch and epsilon, with what is clipped in words.

    Raises:
        BadInput: neither epsilon nor noise is given, or what `plans_of` raises.
    """
    if command.epsilon is None and command.noise_multiplier is None:
        raise BadInput("--compare needs --epsilon (or --noise-multiplier): units are compared at one of them.")
    run = run_planned(command)
    asked = run.privacy.uncalibrated(_sampler(command, run), run.loss)
    alike = replace(run.privacy, num_groups=None)
    units: list[tuple[str, Run]] = [("example", replace(run, privacy=replace(alike, unit="example")))]
    sizes = [("whole batch", 1), *((f"groups of {n}", round(asked.batch_size / n)) for n in COMPARED_GROUPS)]
    for name, groups in sizes:
        if groups > 1 or name == "whole batch":
            units.append((name, replace(run, privacy=replace(alike, unit="group", num_groups=groups))))
    pairs = replace(alike, unit="pair", clip="flat", views=1)
    loss = run.loss if run.loss.kind in _OF_PAIRS else _loss_of_pairs()
    units.append(("pairs", replace(run, privacy=pairs, loss=loss)))
    found = [(name, _uncalibrated(command, one)) for name, one in units]
    if command.epsilon is None:
        return found
    return [(name, plan.calibrated(epsilon=command.epsilon, accountant=command.accountant)) for name, plan in found]


def _loss_of_pairs() -> "Loss":
    from sfumato.recipes import logit_dp

    return logit_dp("").loss


def _compare(command: PlanCommand) -> int:
    parameters = _parameters(command)
    rows = [
        {
            "clipped": name,
            **plan.summary(),
            "noise_to_signal": plan.noise_std / plan.divisor / plan.unit.largest_mean(plan.batch_size),
            "signal_to_noise": plan.signal_to_noise(parameters),
            "passes": _plan_text.PASSES[name.split()[0]],
            "caution": plan.unit.caution(plan.batch_size),
        }
        for name, plan in compared(command)
    ]
    if command.json:
        sys.stdout.write(json.dumps(rows, indent=2, allow_nan=False) + "\n")
        return 0
    console = screen()
    show(console, _plan_text.comparison(rows, parameters))
    for sentence in _plan_text.comparison_sentences(rows):
        show(console, sentence)
    return 0


def _facts(command: PlanCommand, plan: "Plan") -> dict[str, Any]:
    from sfumato.plan import figures

    facts = {**plan.summary(), **figures(plan, _parameters(command))}
    return {**facts, **_benchmark(command, plan)} if command.benchmark else facts


def _parameters(command: PlanCommand) -> int:
    from sfumato.plan import num_parameters

    if command.num_parameters is None and command.recipe in _OF_FOLDERS:
        raise BadInput(f"{command.recipe} needs --num-parameters: how many train (sfumato doctor MODEL counts them).")
    if command.benchmark and command.recipe in _OF_FOLDERS:
        raise BadInput("--benchmark measures captioners: sfumato doctor MODEL measures any model.")
    return command.num_parameters or num_parameters(_size(command))


def _size(command: PlanCommand) -> str:
    """Return the size of the captioner whose parameters are counted."""
    own = run_planned(command).model.size if command.recipe == "dp-cap" else None  # towers have sizes of their own
    return command.size or own or "micro"


def _benchmark(command: PlanCommand, plan: "Plan") -> dict[str, float]:
    return _measured(_size(command), command.image_size, command.micro_batch_size, plan.batch_size, plan.steps)


@lru_cache(maxsize=8)  # the rows of the table differ in their noise only
def _measured(
    size: str, image_size: int | None, micro_batch_size: int, batch_size: float, steps: int
) -> dict[str, float]:
    try:
        from sfumato.recipes.benchmark import measure
    except ImportError as error:
        raise BadInput("--benchmark measures with PyTorch, which cannot be imported here: leave it out.") from error
    return measure(size, image_size, micro_batch_size, batch_size, steps)
