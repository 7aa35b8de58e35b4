"""Total amount of noise."""

import pytest

from sfumato.accounting import tan_eta
from sfumato.base import BadInput


def test_eta_of_the_paper_run():
    assert tan_eta(0.005606, 5708, 0.728) ** 2 == pytest.approx(0.005606**2 * 5708 / (2 * 0.728**2), rel=1e-12)


def test_unchanged_by_scaling_batch_and_noise_together():
    assert tan_eta(0.01, 100, 2.0) == pytest.approx(tan_eta(0.01 / 16, 100, 2.0 / 16), rel=1e-12)


def test_no_noise_no_eta():
    with pytest.raises(BadInput, match="noise_multiplier"):
        tan_eta(0.01, 100, 0.0)
