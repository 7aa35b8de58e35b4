"""The figures of PAPERS section 3 (DP-CLIP's linear setting, arXiv 2306.08173, reconstructed), within 3 %.

d1 = 40, d2 = 30, r = 3, s_k = 2 / 1.5 / 1, n = 4000, b = 400, eta = .05. The source leaves three things open, found by
trying: "sin Theta" is ||sin Theta(G1, U1)||_F, averaged over repeats and over steps long after the start; s is the
standard deviation on each coordinate of one step's gradient; the noise of the data is .5 a coordinate, the latents of
the two views are equal, and c = .9, which clips rarely (the factor's mean is .99 at s = 0 and .91 at s = .2). Without
clipping the first three figures hold as well, and the last is .267 instead of .281.
"""

import numpy as np
import pytest
from tests.theory.cases import KEY, linear

from sfumato.theory import privacy_floor, simulate

TOLERANCE = 0.03


@pytest.mark.parametrize(("noise_std", "printed"), [(0.0, 0.087), (0.05, 0.110), (0.1, 0.152), (0.2, 0.281)])
def test_mean_sin_theta(noise_std: float, printed: float) -> None:
    run = linear(noise_std=noise_std, clip_norm=0.9, steps=200)
    course = simulate(run, KEY, repeats=20, every=10)
    late = course.sin_theta[course.steps > 120]
    assert float(late.mean()) == pytest.approx(printed, rel=TOLERANCE)
    assert 0.9 < course.clip_factor[course.steps > 120].mean() < 1.0


def test_the_privacy_term_alone() -> None:
    run = linear(noise_std=0.1, clip_norm=0.9, steps=600)
    assert np.sqrt(privacy_floor(run)) == pytest.approx(0.125, rel=0.005), "predicted"
    course = simulate(run, KEY, repeats=64, every=20, population=True)
    simulated = np.sqrt(np.mean(course.sin_theta[course.steps > 150] ** 2))
    assert float(simulated) == pytest.approx(0.124, rel=TOLERANCE)
