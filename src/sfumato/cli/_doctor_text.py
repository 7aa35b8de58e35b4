"""What `sfumato doctor` shows to a person: tables and sentences."""

from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from sfumato.cli import _screen

if TYPE_CHECKING:
    from sfumato.norms.inspect import Inspection
    from sfumato.recipes.doctor import Diagnosis
    from sfumato.recipes.doctor_signal import Gradient

_GB = 1e9


def one_sentence(found: "Diagnosis") -> str:
    """Return why the model cannot be trained, in one line, with the way out where one was found to work."""
    said = " ".join(str(found.refusal).split())
    return f"{said} {_tried(found)}" if found.repaired else said


def _tried(found: "Diagnosis") -> str:
    changes = (f"{finding.named} {finding.tried}" for finding in found.findings if finding.tried)
    return f"It trains with {'; '.join(changes)} (tried)."


def show(console: Console, found: "Diagnosis", micro_batch_size: int, batch_size: float) -> None:
    """Print the diagnosis."""
    _say(console, f"Model: {found.source or found.asked.model}")
    for note in found.notes:
        _say(console, f"  - {note}")
    if found.seen is not None:
        _parameters(console, found.seen, found.frozen_types)
    if found.trainable:
        what = "each example by itself" if found.unit == "example" else "groups of rows"
        _say(console, f"\nCan be trained: yes, clipping {what}. No row reaches another on made-up rows.", "green")
    else:
        _refused(console, found)
    _cost(console, found, micro_batch_size, batch_size)
    _signal(console, found)
    for sentence in found.trouble:
        _say(console, f"Not known: {sentence}", "yellow")


def _say(console: Console, text: str, style: str = "") -> None:
    _screen.show(console, Text(text, style=style))


def _parameters(console: Console, seen: "Inspection", frozen_types: tuple[str, ...]) -> None:
    from sfumato.recipes.doctor import rules
    from sfumato.report import tables

    frozen = sum(seen.frozen.values())
    _say(
        console,
        f"\nParameters: {seen.num_trainable:,} train in {len(seen.uses)} tensors; {frozen:,} in {len(seen.frozen)} "
        f"tensors do not{_stored(frozen_types)}.",
    )
    _screen.show(console, tables.table(rules(seen)))
    for names in seen.tied:
        _say(console, f"  tied: {' = '.join(names)} (all uses are added up with their cross terms)")
    if seen.unreached:
        _say(console, f"  no gradient reaches {', '.join(seen.unreached[:3])}{_more(len(seen.unreached), 3)}", "yellow")


def _stored(types: tuple[str, ...]) -> str:
    return f" (stored as {' and '.join(types)})" if types else ""


def _more(count: int, listed: int) -> str:
    return f" and {count - listed} more" if count > listed else ""


def _refused(console: Console, found: "Diagnosis") -> None:
    _say(console, "\nCan be trained: no.", "red")
    if found.seen is None:
        return  # the one sentence, on stderr, says it all
    _say(console, f"  Training would say: {found.refusal}")
    for finding in found.findings:
        if not finding.where:
            continue
        _say(console, f"  - {finding.named}: {finding.why}.")
        if finding.instead:
            _say(console, f"    Instead: {finding.instead}.")
    if found.repaired:
        _say(console, f"  {_tried(found)}", "green")
    elif found.repaired is False:
        _say(console, "  No setting alone helps.")


def _cost(console: Console, found: "Diagnosis", rows: int, batch_size: float) -> None:
    if not found.cost:
        return
    table = Table(title=Text(f"A step on this machine's CPU, micro-batch {rows}"), title_justify="left")
    for name in ("", "s per micro-batch", "s besides", f"s per step of {batch_size:,.0f}", "GB"):
        table.add_column(name, justify="left" if not name else "right")
    for side, cost in found.cost.items():
        table.add_row(
            side,
            f"{cost.seconds.at(rows):.3g}",
            f"{cost.seconds_per_step:.3g}",
            f"{cost.step_seconds(rows, batch_size):.3g}",
            f"{cost.bytes.at(rows) / _GB:.3g}",
        )
    _screen.show(console, "")
    _screen.show(console, table)
    private = found.cost["private"]
    sizes = " and ".join(str(size) for size in private.sizes)
    _say(
        console,
        f"  By a line through micro-batches of {sizes}. GB: weights, gradients, the float64 sum, Adam and activations, "
        f"beside {private.held_bytes / _GB:.2f} GB of Python and libraries.",
    )
    _say(console, f"  {_largest(found)}")
    for side, ratio in found.checked.items():
        _say(
            console,
            f"  {side}, estimate over measured: time {ratio.seconds:.2f}, processor time "
            f"{ratio.processor_seconds:.2f}, memory {ratio.bytes:.2f}",
        )


def _largest(found: "Diagnosis") -> str:
    room = f"{found.memory_bytes / _GB:.1f} GB"
    if found.largest == 0:
        return f"No micro-batch fits in {room} (a tenth is left spare)."
    if found.largest is None:
        return f"Memory does not grow with the micro-batch at these sizes; it fits in {room}."
    return f"Largest private micro-batch in {room} (a tenth is left spare): about {found.largest:,}."


def _signal(console: Console, found: "Diagnosis") -> None:
    signal, plan = found.signal, found.plan
    if signal is None or plan is None or found.seen is None:
        return
    gradient = signal.gradient
    made_up = gradient.inputs == "made-up"
    inputs = "made-up rows" if made_up else gradient.inputs
    _say(console, f"\nSignal of the first step ({gradient.num_units} {found.unit}s: {inputs})")
    _say(
        console,
        f"  mean clipped gradient {gradient.mean_norm:.3g}, by chance alone {gradient.by_chance:.2g} (C = "
        f"{gradient.clip_norm:g}, {gradient.clipped:.0%} are clipped); "
        f"noise {signal.noise_norm:.3g}, noise multiplier {plan.noise_multiplier:.4g}",
    )
    bound = f"at most {signal.largest:.3g} and {signal.largest_over_all:.3g} where all gradients agree"
    _say(
        console,
        f"  signal to noise {signal.ratio:.3g} a step, over {signal.steps:,} steps R = {signal.over_all:.3g} ({bound})",
    )
    style = {"hopeless": "red", "doubtful": "yellow", "unclear": "yellow", "fine": "green"}[signal.verdict]
    meaning = {
        "hopeless": "Hopeless: over all steps the noise outweighs the signal, even if the gradient never turned.",
        "doubtful": "Doubtful: at this signal more than a tenth of the squared way that the weights go is noise.",
        "unclear": f"Unclear: {_unclear(gradient)}, and there is enough where gradients agree.",
        "fine": "No sign that learning is hopeless.",
    }
    _say(console, f"  {meaning[signal.verdict]}", style)
    for sentence in found.advice:
        _say(console, f"  - {sentence}")
    if made_up:
        _say(
            console,
            "  Made-up words and labels have nothing to do with their pictures: --data, of public ones, tells more.",
        )


def _unclear(gradient: "Gradient") -> str:
    if gradient.real:
        return "what these rows show is not beyond chance"
    return "there is little signal where words or labels are made up"
