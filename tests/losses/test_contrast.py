"""Losses of similarities on tensors: against their definitions, with rows that do not meet, and their weights."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tests.plan.test_contrast import weights as by_hand
from torch import Tensor, nn

from sfumato.base import BadInput
from sfumato.losses import Contrast
from sfumato.losses.contrast import cosines, rows
from sfumato.plan import ConjecturedLoss, InfoNCE, Sigmoid, SpreadOut

LOSSES = [
    InfoNCE(temperature=0.3, symmetric=False),
    InfoNCE(temperature=0.3),
    Sigmoid(temperature=0.5, bias=-1.0),
    SpreadOut(),
]


def weights(loss, z: Tensor, meets: Tensor) -> tuple[Tensor, Tensor]:
    return Contrast(embed=lambda model, batch: (batch, batch), loss=loss).weights(z, meets)


def similarities(n: int) -> Tensor:
    generator = torch.Generator().manual_seed(n)
    u, v = (F.normalize(torch.randn(n, 5, generator=generator, dtype=torch.float64), dim=1) for _ in range(2))
    return u @ v.mT


def everyone(n: int) -> Tensor:
    return torch.ones(n, n, dtype=torch.bool)


def defined(loss, z: Tensor) -> Tensor:
    """Row by row, as the losses are written down."""
    n = len(z)
    found = []
    for i in range(n):
        if isinstance(loss, InfoNCE):
            label = torch.tensor([i])
            one = F.cross_entropy(z[i][None] / loss.temperature, label)
            two = F.cross_entropy(z[:, i][None] / loss.temperature, label)
            found.append((one + two) / 2 if loss.symmetric else one)
        elif isinstance(loss, Sigmoid):
            signs = [1.0 if i == j else -1.0 for j in range(n)]
            found.append(sum(-F.logsigmoid(s * (z[i, j] / loss.temperature + loss.bias)) for j, s in enumerate(signs)))
        else:
            found.append(sum(z[i, j] ** 2 for j in range(n) if j != i) / max(n - 1, 1))
    return torch.stack([torch.as_tensor(x, dtype=z.dtype) for x in found])


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.describe())
@pytest.mark.parametrize("n", [1, 2, 6])
def test_rows_and_weights_are_the_definitions(loss, n: int) -> None:
    z = similarities(n)
    torch.testing.assert_close(rows(loss, z, everyone(n)), defined(loss, z))
    derivative, losses = weights(loss, z, everyone(n))
    torch.testing.assert_close(losses, defined(loss, z))
    np.testing.assert_allclose(derivative.numpy(), by_hand(loss, z.numpy()), atol=1e-12)
    assert not derivative.requires_grad


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.describe())
def test_groups_in_one_matrix_are_groups_apart(loss) -> None:
    z, groups = similarities(7), torch.tensor([0, 0, 0, 1, 2, 2, 2])
    meets = groups[:, None] == groups[None]
    meets[6], meets[:, 6] = False, False  # a row that does not count
    z[6], z[:, 6] = torch.nan, torch.nan
    derivative, found = weights(loss, z, meets)
    parts = [slice(0, 3), slice(3, 4), slice(4, 6)]
    want = torch.cat([defined(loss, z[part, part]) for part in parts])
    torch.testing.assert_close(found[:6], want)
    assert float(found[6]) == 0.0
    assert derivative.isfinite().all()
    for part in parts:
        torch.testing.assert_close(derivative[part, part], weights(loss, z[part, part], everyone(len(z[part])))[0])
    assert derivative[6].abs().sum() == derivative[:, 6].abs().sum() == derivative[:3, 3:].abs().sum() == 0


def test_cosines_stay_in_their_range_and_precision() -> None:
    u = F.normalize(torch.randn(64, 3), dim=1) * (1 + 1e-6)
    assert cosines(u, u).abs().max() <= 1.0
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert cosines(u, u).dtype == torch.float32


def test_embeddings_are_checked_and_widened() -> None:
    contrast = Contrast(embed=lambda model, batch: (batch.bfloat16(), batch.bfloat16()), loss=LOSSES[0])
    u, v = contrast.embeddings(nn.Identity(), torch.randn(3, 2))
    assert u.dtype == v.dtype == torch.float32
    wrong = Contrast(embed=lambda model, batch: (batch, batch[:, :1]), loss=LOSSES[0])
    with pytest.raises(BadInput, match=r"\(3, 2\), \(3, 1\)"):
        wrong.embeddings(nn.Identity(), torch.randn(3, 2))


def test_an_unknown_loss_is_named() -> None:
    with pytest.raises(BadInput, match="NoneType"):
        rows(None, similarities(2), everyone(2))


def test_a_loss_of_ones_own_brings_value_and_claims() -> None:
    """The derivative comes from the value; bounds are claimed, so the unit is not proved and no epsilon is printed."""
    claimed = ConjecturedLoss(rule="cubes", join=9.0, exchange=12.0)

    def cubes(z: Tensor, meets: Tensor) -> Tensor:
        return torch.where(meets, z, 0.0).pow(3).sum(1)

    contrast = Contrast(embed=lambda model, batch: (batch, batch), loss=claimed, value=cubes)
    z = similarities(4)
    derivative, losses = contrast.weights(z, everyone(4))
    torch.testing.assert_close(derivative, 3 * z**2)
    torch.testing.assert_close(losses, (z**3).sum(1))
    for wrong in ({"loss": claimed}, {"loss": LOSSES[0], "value": cubes}):
        with pytest.raises(BadInput, match="ConjecturedLoss"):
            Contrast(embed=lambda model, batch: (batch, batch), **wrong)
