"""Settings that several tests share: the one of PAPERS section 3, and its plan by noise per step."""

from sfumato.base import seeds
from sfumato.plan import Group, Plan
from sfumato.sampling import Poisson
from sfumato.theory import LinearClip, Spiked

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
