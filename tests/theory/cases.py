"""What several tests share: the setting of PAPERS section 3 with a plan by noise per step, and slopes at rest."""

from dataclasses import replace

import numpy as np

from sfumato.base import seeds
from sfumato.plan import Group, Plan
from sfumato.sampling import Poisson
from sfumato.theory import LinearClip, Spiked, simulate

KEY = seeds.derive(bytes(32), "tests/theory")
DATA = Spiked(d1=40, d2=30, singular_values=(2.0, 1.5, 1.0), noise=0.5)


def linear(
    *,
    noise_std: float = 0.1,
    clip_norm: float = 10.0,
    num_groups: int = 1,
    steps: int = 300,
    learning_rate: float = 0.05,
    data: Spiked = DATA,
    num_records: int = 4000,
    batch_size: float = 400,
    start_angle: float = 0.3,
) -> LinearClip:
    """Return the setting whose noise on each coordinate of the mean over groups is `noise_std`."""
    plan = Plan(
        unit=Group(clip_norm=clip_norm, num_groups=num_groups),
        sampler=Poisson(num_records=num_records, expected_batch_size=batch_size),
        steps=steps,
        noise_multiplier=noise_std * num_groups / (2.0 * clip_norm),
    )
    return LinearClip(data=data, plan=plan, learning_rate=learning_rate, start_angle=start_angle)


def slope(x: list[float], y: list[float]) -> float:
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


def at_rest(run: LinearClip, repeats: int, population: bool) -> float:
    """The mean square sin Theta at rest: after 3 / (eta s_r) steps all but e^-6 of the floor is there."""
    forgotten = round(3.0 / (run.learning_rate * run.data.singular_values[-1]))
    run = replace(run, start_angle=0.0, plan=run.plan.with_steps(2 * forgotten))
    course = simulate(run, KEY, repeats=repeats, every=max(1, forgotten // 20), population=population)
    return float(np.mean(course.sin_theta[course.steps > forgotten] ** 2))


def with_noise(run: LinearClip, **change: float) -> LinearClip:
    """Return the run with `noise_multiplier` or `clip_norm` changed: sigma and c, the other one stays."""
    if "clip_norm" in change:
        return replace(run, plan=replace(run.plan, unit=replace(run.unit, clip_norm=change["clip_norm"])))
    return replace(run, plan=replace(run.plan, noise_multiplier=change["noise_multiplier"]))
