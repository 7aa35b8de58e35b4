"""What commands that train have in common: carry a run out, show public progress, say where the result is."""

from collections.abc import Callable
from typing import Any

from rich.console import Console

from sfumato.base.rounding import upper
from sfumato.cli._screen import say, screen
from sfumato.recipes.run import Run


def carry_out(settings: Run, *, new_attempt: bool = False, reveal: str | None = None, seed: int | None = None) -> int:
    """Train under the run's plan, or its twin; show progress on stderr; return 0."""
    from sfumato.recipes.config import check_folder
    from sfumato.recipes.execute import train_run, train_twin
    from sfumato.recipes.make import make

    console = screen(error=True)
    check_folder(settings)
    made = make(settings)
    plan, train_set = made.plan, made.sets.train
    say(
        console,
        f"{train_set.name}: {train_set.num_records:,} records; {len(made.training.trainable)} tensors train; "
        f"{made.said}",
    )
    if not settings.private:
        say(console, ("NOT PRIVATE", "bold red"), ": no clipping, no noise.")
        train_twin(settings, on_step=_steps(console, plan.steps), made=made)
        say(console, str(settings.out / "export"))
        return 0
    for warning in plan.warnings:
        say(console, ("warning ", "yellow"), warning)
    say(
        console,
        f"{plan.unit.describe()}; noise multiplier {plan.noise_multiplier:.5g}, {plan.steps} steps of "
        f"{plan.batch_size:g} expected records, delta {upper(plan.delta)}",
    )
    epsilon = train_run(
        settings,
        on_progress=show_progress(console),
        accept_new_attempt=new_attempt,
        reveal=reveal,
        seed=seed,
        made=made,
    )
    claim = (
        f"epsilon {upper(epsilon, 3)} at delta {upper(plan.delta)}" if epsilon is not None else "no epsilon is proved"
    )
    say(console, (claim, "bold"), f"; to share: {settings.out / 'export'}")
    return 0


def show_progress(console: Console) -> Callable[[Any], None]:
    """Return what prints a line of public progress."""

    def show(progress: Any) -> None:
        epsilon = "" if progress.epsilon is None else f"  epsilon {upper(progress.epsilon, 3)}"
        loss = "" if progress.loss is None else f"  loss {progress.loss:.4f} (un-noised)"
        held_out = "" if progress.measured is None else f"  held-out loss {progress.measured:.3f}"
        say(
            console,
            f"step {progress.step}/{progress.total}  {_duration(progress.eta_seconds)} left{epsilon}{held_out}{loss}",
        )

    return show


def _steps(console: Console, total: int) -> Callable[[int, float], None]:
    def show(step: int, loss: float) -> None:
        if step % max(1, total // 20) == 0 or step == total:
            say(console, f"step {step}/{total}  loss {loss:.4f}")

    return show


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"
