"""The linear contrastive loss of a dual encoder G1 x, G2 x~, its exact identity, gradients and minimiser.

Shapes: G1 (..., r, d1), G2 (..., r, d2), x (b, d1), x~ (b, d2), S (d1, d2). [arXiv 2306.08173, linear setting]
"""

import numpy as np

from sfumato.base import BadInput

Array = np.ndarray


def contrastive_loss(g1: Array, g2: Array, x: Array, other: Array) -> float:
    """Return (1 / (b (b-1))) sum_{i != j} (s_ij - s_ii), s_ij = <G1 x_i, G2 x~_j>: the sum as it is written.

    Raises:
        BadInput: fewer than two rows.
    """
    size = _at_least_two(x)
    s = (x @ g1.T) @ (other @ g2.T).T
    differences = s - np.diag(s)[:, None]  # the diagonal of this is zero
    return float(differences.sum() / (size * (size - 1)))


def centred_cross_covariance(x: Array, other: Array) -> Array:
    """Return S_b = (1 / (b-1)) sum_i (x_i - mean x)(x~_i - mean x~)^T, (d1, d2). BadInput: fewer than two rows."""
    size = _at_least_two(x)
    return (x - x.mean(0)).T @ (other - other.mean(0)) / (size - 1)


def trace_loss(g1: Array, g2: Array, s: Array) -> float:
    """Return -tr(G1 S G2^T), which is `contrastive_loss` exactly where S is the batch's `centred_cross_covariance`.

    Proof. Let m = <G1 mean x, G2 mean x~>. All pairs add up to sum_ij s_ij = b^2 m, so sum_{i != j} s_ij = b^2 m -
    sum_i s_ii, and sum_{i != j} s_ii = (b-1) sum_i s_ii. The difference is b^2 m - b sum_i s_ii; over b (b-1) it is
    -(sum_i s_ii - b m) / (b-1) = -tr(G1 S_b G2^T). QED.
    """
    return -float(np.trace(g1 @ s @ g2.T))


def penalty(g1: Array, g2: Array, rho: float) -> float:
    """Return (rho / 2) ||G1^T G2||_F^2."""
    return 0.5 * rho * float(np.sum((g1.T @ g2) ** 2))


def gradients(g1: Array, g2: Array, s: Array, rho: float) -> tuple[Array, Array]:
    """Return the gradients of -tr(G1 S G2^T) + (rho/2) ||G1^T G2||_F^2 in G1 and G2.

    -G2 S^T + rho G2 G2^T G1 and -G1 S + rho G1 G1^T G2.
    """
    on_1, on_2 = penalty_gradients(g1, g2, rho)
    return on_1 - g2 @ np.swapaxes(s, -1, -2), on_2 - g1 @ s


def penalty_gradients(g1: Array, g2: Array, rho: float) -> tuple[Array, Array]:
    """Return rho G2 G2^T G1 and rho G1 G1^T G2."""
    first, second = (g @ np.swapaxes(g, -1, -2) for g in (g1, g2))
    return rho * (second @ g1), rho * (first @ g2)


def minimiser(s: Array, rank: int, rho: float) -> tuple[Array, Array]:
    """Return balanced G1, G2 that minimise trace loss and penalty: G1^T G2 is the SVD of S / rho cut at rank r.

    Proof. With M = G1^T G2, tr(G1 S G2^T) = <M, S>, so loss and penalty are (rho/2) ||M - S/rho||_F^2 -
    ||S||_F^2 / (2 rho). M runs over all matrices of rank at most r, and the nearest one to S/rho is its SVD cut at r
    [Eckart and Young 1936]. G1 = sqrt(D) U1^T, G2 = sqrt(D) U2^T has this M and G1 G1^T = G2 G2^T = D; every other
    solution is A G1, A^-T G2 with A invertible, which has the same rows' spans. QED.

    Raises:
        BadInput: rho is not positive, or the rank exceeds S.
    """
    if not rho > 0:
        raise BadInput(f"rho must be positive, got {rho}: without a penalty the loss has no minimum.")
    if not 1 <= rank <= min(s.shape):
        raise BadInput(f"rank must be in 1 .. {min(s.shape)}, got {rank}.")
    left, values, right = np.linalg.svd(s / rho, full_matrices=False)
    root = np.sqrt(values[:rank])[:, None]
    return root * left[:, :rank].T, root * right[:rank]


def _at_least_two(x: Array) -> int:
    if len(x) < 2:
        raise BadInput(f"the contrastive loss needs at least two rows, got {len(x)}.")
    return len(x)
