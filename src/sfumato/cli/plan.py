"""`sfumato plan RECIPE`: what a training run will cost. Touches no data, imports no torch."""

import json
import sys
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from sfumato.base import BadInput, limits
from sfumato.base.ranges import Real
from sfumato.cli import _plan_text
from sfumato.cli._plan_checks import groups_of, refuse_unread
from sfumato.cli._screen import screen, show

if TYPE_CHECKING:  # importing the accountants takes a second, which --help need not wait for
    from sfumato.plan import Plan, Unit
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
class PlanCommand:
    """Say what a private training run costs: noise, signal, what an attacker could know. Touches no data.

    Without --epsilon and without --noise-multiplier: a table for epsilon 1, 2, 4 and 8. With --noise-multiplier alone:
    the epsilon of that run. With --epsilon: whichever of noise multiplier, steps and batch size was left out, in this
    order, is chosen so that epsilon is met.
    """

    recipe: Annotated[Literal["dp-cap", "dp-clip", "dp-gcl", "logit-dp", "dp-vqa", "dp-vlm"], tyro.conf.Positional] = (
        "dp-cap"
    )
    """What will be trained: dp-cap (a captioner, clipped per example), or two towers with a contrastive loss: dp-clip
    (the whole batch's gradient is clipped), dp-gcl (those of small groups), logit-dp (those of all pairs), or
    answers to questions: dp-vqa, dp-vlm (clipped per record; --num-parameters says how many train)."""

    records: Annotated[int | None, limits.RECORDS] = None
    """Number of records N (people, where one person owns several rows). It becomes public."""

    sampling_prob: Annotated[float | None, limits.PROBABILITY] = None
    """Instead of --records: the probability that a record is in a step. N stays hidden and is never printed; needs
    --expected-batch-size (the public divisor) and --delta."""

    epsilon: Annotated[float | None, limits.EPSILON] = None
    """The epsilon to meet."""

    delta: Annotated[float | None, limits.DELTA] = None
    """The delta of the claim. Default: 1 / (10 N); has to be given below 100 records."""

    expected_batch_size: Annotated[float | None, limits.BATCH_MEAN] = None
    """Records of a step, in expectation. Default: the largest power of two up to N / 24, within 64 .. 65,536."""

    noise_multiplier: Annotated[float | None, limits.NOISE] = None
    """Standard deviation of the noise over the distance that one record moves the sum (presence)."""

    steps: Annotated[int | None, limits.STEPS] = None
    """Number of steps. Default: as many as see each record 20 times in expectation, within 200 .. 10,000."""

    relation: Literal["add_remove", "zero_out", "replace_one"] | None = None
    """Which data sets are neighbours. Default: zero_out with --records, add_remove with --sampling-prob, replace_one
    for fixed-size and full-batch."""

    sampler: Literal["poisson", "fixed-size", "full-batch"] = "poisson"
    """How the records of a step are drawn."""

    cap: Annotated[int | None, limits.CAP] = None
    """Largest number of records in a Poisson draw; of a larger draw a random subset is kept. Epsilon pays for it."""

    clip_norm: Annotated[float, limits.CLIP_NORM] = 1.0
    """Largest norm C of what is clipped: one example's gradient, a group's, or a pair's."""

    clip: Literal["flat", "automatic"] = "flat"
    """Scale by min(1, C/norm), or by C/(norm + gamma); pairs are clipped flat."""

    num_groups: Annotated[int | None, limits.GROUPS] = None
    """Number of groups of dp-gcl. Default: groups of 16 records in expectation."""

    temperature: Annotated[float, limits.TEMPERATURE] = 0.2
    """Temperature of the loss of logit-dp: it decides how far one record can move the sum."""

    loss: Literal["infonce", "sigmoid", "spread-out"] = "infonce"
    """Loss of logit-dp. The sigmoid loss needs --cap or another sampler with a largest draw."""

    compare: bool = False
    """Instead of one recipe: a table of all units (example, batch, groups of several sizes, pairs) at one epsilon."""

    accountant: Literal["pld", "rdp"] | None = None
    """Which accountant has to meet --epsilon. Default: pld where it is proved, else rdp."""

    size: Literal["pico", "micro", "nano", "tiny", "small", "base", "large"] = "micro"
    """Size of the captioner: its number of trainable parameters decides the signal-to-noise ratio."""

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
    refuse_unread(command)
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
        title = command.recipe + ("" if command.recipe in _OF_FOLDERS else f" {command.size}")
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
    if command.epsilon is None:
        plan = _plan(command)
        if command.noise_multiplier is not None:
            return [plan]
        return [plan.calibrated(epsilon=target, accountant=command.accountant) for target in TABLE_EPSILONS]
    solve = _missing(command)
    plan = _plan(command)
    return [plan.calibrated(epsilon=command.epsilon, accountant=command.accountant, solve=solve)]


def _missing(command: PlanCommand) -> Literal["noise_multiplier", "steps", "batch_size"]:
    if command.noise_multiplier is None:
        return "noise_multiplier"
    if command.steps is None:
        return "steps"
    if command.expected_batch_size is None and command.sampling_prob is None and command.sampler != "full-batch":
        return "batch_size"
    raise BadInput(
        "--noise-multiplier, --steps and the batch size fix epsilon: leave out one of them, or leave out --epsilon."
    )


def _plan(command: PlanCommand) -> "Plan":
    from sfumato.base import Relation
    from sfumato.plan import Plan, default_steps
    from sfumato.recipes.privacy import check_default_delta

    sampler = _sampler(command)
    steps = command.steps
    if steps is None:  # 1 / sampling_prob stands for N / batch, and needs no N
        steps = default_steps(1, sampler.sampling_prob or 1.0)
    optional: dict[str, Any] = {"delta": command.delta}
    if command.relation is not None:
        optional["relation"] = Relation(command.relation)
    plan = Plan(
        unit=_unit(command, sampler),
        sampler=sampler,
        steps=steps,
        noise_multiplier=command.noise_multiplier,
        **optional,
    )
    if command.delta is None and command.records is not None:
        check_default_delta(command.records)
    return plan


def _unit(command: PlanCommand, sampler: "Sampler") -> "Unit":
    from sfumato.plan import Example, Group, InfoNCE, Pair, Sigmoid, SpreadOut

    clip: dict[str, Any] = {"clip_norm": command.clip_norm, "clip": command.clip}
    if command.recipe in ("dp-cap", *_OF_FOLDERS):
        return Example(**clip)
    if command.recipe == "dp-clip":
        return Group(**clip, num_groups=1)
    if command.recipe == "dp-gcl":
        return Group(**clip, num_groups=groups_of(command.num_groups, sampler.divisor))
    losses = {"infonce": InfoNCE, "sigmoid": Sigmoid}
    loss = losses[command.loss](temperature=command.temperature) if command.loss in losses else SpreadOut()
    return Pair(clip_norm=command.clip_norm, loss=loss)


def _sampler(command: PlanCommand) -> "Sampler":
    from sfumato.plan import default_batch_size
    from sfumato.sampling import FixedSize, FullBatch, Poisson

    if (command.records is None) == (command.sampling_prob is None):
        raise BadInput("give --records, or --sampling-prob where the number of records is to stay hidden.")
    if command.cap is not None and command.sampler != "poisson":
        raise BadInput(f"--cap belongs to Poisson sampling; {command.sampler} has a fixed size already.")
    if command.records is None:
        if command.sampler != "poisson":
            raise BadInput(f"{command.sampler} sampling needs --records.")
        return Poisson(
            sampling_prob=command.sampling_prob, expected_batch_size=command.expected_batch_size, cap=command.cap
        )
    if command.records < 1:
        raise BadInput(f"--records must be at least 1, got {command.records}.")
    if command.sampler == "full-batch":
        if command.expected_batch_size not in (None, command.records):
            raise BadInput("--sampler full-batch takes all records: leave out --expected-batch-size.")
        return FullBatch(num_records=command.records)
    batch = command.expected_batch_size or default_batch_size(command.records)
    if command.sampler == "fixed-size":
        if int(batch) != batch:
            raise BadInput(f"--sampler fixed-size needs a whole --expected-batch-size, got {batch}.")
        return FixedSize(num_records=command.records, batch_size=int(batch))
    return Poisson(num_records=command.records, expected_batch_size=batch, cap=command.cap)


COMPARED_GROUPS = (64, 16, 4)


def compared(command: PlanCommand) -> "list[tuple[str, Plan]]":
    """Return the plans of all units for one data set, batch and epsilon, with what is clipped in words.

    Raises:
        BadInput: neither epsilon nor noise is given, or what `plans_of` raises.
    """
    if command.epsilon is None and command.noise_multiplier is None:
        raise BadInput("--compare needs --epsilon (or --noise-multiplier): units are compared at one of them.")
    batch = _plan(replace(command, recipe="dp-cap")).batch_size
    commands = [("example", replace(command, recipe="dp-cap")), ("whole batch", replace(command, recipe="dp-clip"))]
    for size in COMPARED_GROUPS:
        if (groups := round(batch / size)) > 1:
            commands.append((f"groups of {size}", replace(command, recipe="dp-gcl", num_groups=groups)))
    commands.append(("pairs", replace(command, recipe="logit-dp")))
    return [(name, plans_of(one)[0]) for name, one in commands]


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
    return command.num_parameters or num_parameters(command.size)


def _benchmark(command: PlanCommand, plan: "Plan") -> dict[str, float]:
    return _measured(command.size, command.image_size, command.micro_batch_size, plan.batch_size, plan.steps)


@lru_cache(maxsize=8)  # the rows of the table differ in their noise only
def _measured(
    size: str, image_size: int | None, micro_batch_size: int, batch_size: float, steps: int
) -> dict[str, float]:
    try:
        from sfumato.recipes.benchmark import measure
    except ImportError as error:
        raise BadInput("--benchmark measures with PyTorch, which cannot be imported here: leave it out.") from error
    return measure(size, image_size, micro_batch_size, batch_size, steps)
