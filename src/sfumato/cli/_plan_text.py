"""What `sfumato plan` shows to a person: tables and sentences."""

from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from sfumato.base.rounding import percent_at_most, upper

if TYPE_CHECKING:
    from sfumato.plan import Plan


def head(title: str, plan: "Plan", row: dict[str, Any]) -> Text:
    """Return what the rows of a table have in common."""
    from sfumato.plan import describe_sampling

    return Text(
        f"{title} ({row['num_parameters']:,} trainable parameters), {row['unit']}\n"
        f"{describe_sampling(plan)}\n"
        f"{plan.steps:,} steps of {_count(plan.batch_size)} records in expectation; "
        f"delta {upper(plan.delta)}, relation {row['relation']}"
    )


def table(rows: list[dict[str, Any]], plans: "list[Plan]") -> Table:
    """Return one line per plan: they differ in their noise."""
    found = Table()
    for title in (
        "epsilon",
        "RDP epsilon",
        "noise multiplier",
        "noise std",
        "signal to noise",
        "epochs",
        "found at 1 % FPR",
    ):
        found.add_column(title, justify="right")
    timed = "hours" in rows[0]
    for title in ("hours", "memory") if timed else ():
        found.add_column(title, justify="right")
    for row, plan in zip(rows, plans):
        found.add_row(
            _epsilon(plan.epsilon()),
            _epsilon(row["epsilon_rdp"]),
            f"{row['noise_multiplier']:.5g}",
            f"{row['noise_std']:.5g}",
            _short(row["signal_to_noise"]),
            _short(row["epochs"]),
            _share(row["max_true_positive_rate"]),
            *((f"{row['hours']:.3g}", _gigabytes(row["memory_bytes"])) if timed else ()),
        )
    return found


def listing(row: dict[str, Any], plan: "Plan") -> Table:
    """Return one plan, a line per fact."""
    from sfumato.plan import describe_sampling

    lines = {
        "epsilon (PLD)": _epsilon(row["epsilon_pld"]),
        "epsilon (RDP)": _epsilon(row["epsilon_rdp"]),
        "delta": upper(row["delta"], digits=4),
        "relation": row["relation"],
        "unit": row["unit"],
        "sampling": describe_sampling(plan),
        "steps": f"{row['steps']:,} of {_count(plan.batch_size)} records in expectation ({row['epochs']:.3g} epochs)",
        "noise multiplier": f"{row['noise_multiplier']:.6g} (std / presence)",
        "noise std": f"{row['noise_std']:.6g} on the sum, {row['noise_per_coordinate']:.3g} on the mean",
        "presence, swap": f"{row['presence']:g}, {row['swap']:g}",
        "signal to noise": f"{_short(row['signal_to_noise'])} a step, {row['num_parameters']:,} trainable parameters",
        "found at 1 % FPR": _share(row["max_true_positive_rate"]),
        "TAN eta": _short(row["tan_eta"]),
    }
    if "hours" in row:
        lines["time, memory"] = f"{row['hours']:.3g} hours, {_gigabytes(row['memory_bytes'])} (measured here)"
    found = Table(show_header=False, box=None)
    for name, value in lines.items():
        found.add_row(Text(name), Text(value))
    return found


PASSES = {
    "example": "1 forward and backward pass",
    "whole": "the same; a second forward pass where the batch is larger than a micro-batch",
    "groups": "the same, rows of a group in one micro-batch",
    "pairs": "the same, twice, and one backward pass for each entry of an embedding and tower",
}


def comparison(rows: list[dict[str, Any]], parameters: int) -> Table:
    """Return one line per unit: distances, noise, signal, cost."""
    found = Table(title=f"units at one batch; {parameters:,} trainable parameters")
    for name in ("clipped", "presence", "swap", "noise std", "noise / signal", "signal to noise"):
        first = name == "clipped"
        found.add_column(name, justify="left" if first else "right", min_width=13 if first else None)
    for row in rows:
        found.add_row(
            row["clipped"],
            f"{row['presence']:.5g}",
            f"{row['swap']:.5g}",
            f"{row['noise_std']:.5g}",
            f"{row['noise_to_signal']:.3g}",
            _short(row["signal_to_noise"]),
        )
    return found


def comparison_sentences(rows: list[dict[str, Any]]) -> list[Text]:
    """Return how to read the comparison, what each unit costs, and what speaks against it."""
    found = [
        Text(
            "noise / signal: noise on a coordinate of the mean over the largest norm that the mean can have. It is one "
            "scale for all units; how close real gradients come to the largest differs."
        )
    ]
    found += [Text(f"{row['clipped']}: {row['passes']}.") for row in rows]
    return found + [
        Text(f"Warning: {row['clipped']}: {row['caution']}", style="yellow") for row in rows if row["caution"]
    ]


def twin_sentence(twin: "Plan", k: float) -> Text:
    """Return what the simulation of a plan is, and that it proves nothing."""
    return Text(
        f"Simulation (TAN, {k:g} times smaller): noise multiplier {twin.noise_multiplier:.6g}, "
        f"batch {_count(twin.batch_size)}, {twin.steps:,} steps. "
        "It carries no epsilon; on private data it is an unaccounted look."
    )


def sentences(rows: list[dict[str, Any]]) -> list[Text]:
    """Return how to read the figures, the warnings, and what epsilon does not cover."""
    found = [
        Text(
            "signal to noise: the largest possible norm of the mean gradient over the expected norm of its noise.\n"
            "found at 1 % FPR: of the records that were used, the share that the best membership attack finds while it "
            "wrongly accuses 1 % of the others (blind guessing: 1 %)."
        )
    ]
    for row in rows:
        named = f"epsilon {_epsilon(row['epsilon_pld'] or row['epsilon_rdp'])}: " if len(rows) > 1 else ""
        found += [Text(f"Warning: {named}{warning}", style="yellow") for warning in row["warnings"]]
    found.append(Text("Epsilon does not cover:"))
    return found + [Text(f"  - {sentence}") for sentence in rows[0]["not_covered"]]


def _epsilon(value: float | None) -> str:
    return "-" if value is None else upper(value, 4)


def _short(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def _share(value: float | None) -> str:
    return "-" if value is None else percent_at_most(value, 2)


def _count(value: float) -> str:
    return f"{value:,.0f}" if value == int(value) else f"{value:,.1f}"


def _gigabytes(value: float) -> str:
    return f"{value / 1e9:.2f} GB"
