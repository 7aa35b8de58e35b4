"""What commands that train have in common: carry a run out, show public progress, say where the result is."""

import sys
from collections.abc import Callable
from typing import Any

from rich.console import Console

from sfumato.recipes.run import Run


def carry_out(settings: Run, *, new_attempt: bool = False, reveal: str | None = None, seed: int | None = None) -> int:
    """Train under the run's plan, or its twin; show progress on stderr; return 0."""
    from sfumato.recipes.config import check_folder
    from sfumato.recipes.execute import train_run, train_twin
    from sfumato.recipes.make import make

    console = Console(file=sys.stderr)
    check_folder(settings)
    made = make(settings)
    plan, train_set = made.plan, made.sets.train
    console.print(
        f"{train_set.name}: {train_set.num_records:,} records; {len(made.training.trainable)} tensors train; "
        f"{made.said}",
        highlight=False,
    )
    if not settings.private:
        console.print("[bold red]NOT PRIVATE[/]: no clipping, no noise.")
        train_twin(settings, on_step=_steps(console, plan.steps), made=made)
        console.print(f"{settings.out / 'export'}", highlight=False)
        return 0
    for warning in plan.warnings:
        console.print(f"[yellow]warning[/] {warning}", highlight=False)
    console.print(
        f"{plan.unit.describe()}; noise multiplier {plan.noise_multiplier:.4f}, {plan.steps} steps of "
        f"{plan.batch_size:g} expected records, delta {plan.delta:.3g}",
        highlight=False,
    )
    epsilon = train_run(
        settings,
        on_progress=show_progress(console),
        accept_new_attempt=new_attempt,
        reveal=reveal,
        seed=seed,
        made=made,
    )
    claim = f"epsilon {epsilon:.3f} at delta {plan.delta:.3g}" if epsilon is not None else "no epsilon is proved"
    console.print(f"[bold]{claim}[/]; to share: {settings.out / 'export'}", highlight=False)
    return 0


def show_progress(console: Console) -> Callable[[Any], None]:
    """Return what prints a line of public progress."""

    def show(progress: Any) -> None:
        epsilon = "" if progress.epsilon is None else f"  epsilon {progress.epsilon:.3f}"
        loss = "" if progress.loss is None else f"  loss {progress.loss:.4f} (un-noised)"
        held_out = "" if progress.measured is None else f"  held-out loss {progress.measured:.3f}"
        console.print(
            f"step {progress.step}/{progress.total}  {_duration(progress.eta_seconds)} left{epsilon}{held_out}{loss}",
            highlight=False,
        )

    return show


def _steps(console: Console, total: int) -> Callable[[int, float], None]:
    def show(step: int, loss: float) -> None:
        if step % max(1, total // 20) == 0 or step == total:
            console.print(f"step {step}/{total}  loss {loss:.4f}", highlight=False)

    return show


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"
