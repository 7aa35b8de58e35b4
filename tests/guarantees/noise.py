"""The noise: of the plan's scale, and never the same twice."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import stats
from tests.guarantees.harness import NUM_RECORDS, WIDTH, make_model, make_plan, make_table, poisson, run
from torch import Tensor

import sfumato as sf
from sfumato.base import ledger

CONSTANT = sf.FullBatch(num_records=NUM_RECORDS)  # every step has the same sum: only the key tells steps apart


def noisy(**changes: Any) -> sf.Plan:
    return make_plan(**{"noise_multiplier": 3.0, "steps": 12, "sampler": CONSTANT, **changes})


def noise_has_the_plans_scale(folder: Path) -> None:
    """Standard normal times noise_std on the sum, on full and on empty draws alike."""
    for plan in (noisy(), noisy(sampler=poisson(0.5), steps=40)):
        outcome = run(make_table(), folder, plan)
        assert len(outcome.noise) == plan.steps, "every step of the plan releases something"
        standardised = torch.cat(outcome.noise).numpy() / plan.noise_std
        result = stats.kstest(standardised, "norm")
        assert result.pvalue > 1e-4, f"noise is not that of the plan: std {standardised.std():.3f} of it"


def assert_independent(one: Tensor, two: Tensor) -> None:
    found = float(np.corrcoef(one.numpy(), two.numpy())[0, 1])
    assert abs(found) < 5 / len(one) ** 0.5, f"noise is shared: correlation {found:.2f}"


def noise_differs_between_parameters(folder: Path) -> None:
    outcome = run(make_table(), folder, noisy(steps=40))
    parts = [torch.split(noise, [WIDTH, WIDTH**2, WIDTH, WIDTH**2]) for noise in outcome.noise]  # bias, weight, ...
    assert_independent(torch.cat([weight for _, weight, _, _ in parts]), torch.cat([weight for *_, weight in parts]))


def noise_differs_between_steps(folder: Path) -> None:
    outcome = run(make_table(), folder, noisy(steps=24))
    assert all(torch.equal(a, outcome.sums[0]) for a in outcome.sums), "the check needs equal sums"
    assert_independent(torch.cat(outcome.noise[:-1]), torch.cat(outcome.noise[1:]))


def noise_differs_between_fingerprints(folder: Path) -> None:
    """A copy of a run with another learning rate: same seed, same sums at first, other noise."""
    one, two = (run(make_table(), folder, noisy(), lr=lr) for lr in (0.1, 0.2))
    assert torch.equal(one.sums[0], two.sums[0]), "the check needs equal sums"
    assert_independent(torch.cat(one.noise), torch.cat(two.noise))


def noise_differs_between_attempts(folder: Path) -> None:
    """A second attempt under an equal fingerprint: other noise, charged again."""
    first = run(make_table(), folder, noisy(), out=folder / "attempts")
    moved = make_model()
    with torch.no_grad():
        moved[0].weight.add_(1.0)
    second = run(make_table(), folder, noisy(), out=folder / "attempts", model=moved, accept_new_attempt=True)
    assert_independent(torch.cat(first.noise), torch.cat(second.noise))
    charged = ledger.read(folder / "attempts/private/ledger.jsonl").charged()
    assert [count for _, count in charged] == [12, 12], f"charged {charged}"


def noise_differs_when_a_copy_goes_another_way(folder: Path) -> None:
    """Two copies of one run, same keys, other weights: no noise is used for two different sums."""
    first = run(make_table(), folder, noisy())
    moved = make_model()
    with torch.no_grad():
        moved[2].bias.add_(1.0)
        moved[0].weight.mul_(2.0)
    second = run(make_table(), folder, noisy(), model=moved)
    assert not torch.equal(first.sums[0], second.sums[0])
    assert_independent(torch.cat(first.noise), torch.cat(second.noise))


CHECKS = (
    noise_has_the_plans_scale,
    noise_differs_between_parameters,
    noise_differs_between_steps,
    noise_differs_between_fingerprints,
    noise_differs_between_attempts,
    noise_differs_when_a_copy_goes_another_way,
)
