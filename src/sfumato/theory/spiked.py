"""Spiked covariance data: two views of a low-dimensional signal, each under isotropic noise. Synthetic, so public.

Shapes: d1, d2 widths of the views, r rank, n records, R repeats; U1 (d1, r), U2 (d2, r) have orthonormal columns.
"""

from dataclasses import dataclass

import numpy as np

from sfumato.base import BadInput, seeds

Array = np.ndarray


@dataclass(frozen=True, kw_only=True)
class Spiked:
    """x = U1 z + xi and x~ = U2 z~ + xi~, all Gaussian [arXiv 2306.08173; sub-Gaussian there].

    z_k and z~_k have variance w_k = s_k / correlation each and covariance s_k; xi and xi~ are independent, with
    standard deviation `noise` in every coordinate. So E[x x~^T] = U1 diag(s) U2^T, and its singular values are s.

    Attributes:
        d1, d2: widths of the two views, at least 2 r each (a start needs r directions beside the signal's).
        singular_values: s_1 >= ... >= s_r > 0.
        noise: standard deviation of xi and xi~ in every coordinate, >= 0.
        correlation: of z_k and z~_k, in (0, 1].

    Raises:
        BadInput: a number is out of its range.
    """

    d1: int
    d2: int
    singular_values: tuple[float, ...]
    noise: float
    correlation: float = 1.0

    def __post_init__(self) -> None:
        values = self.singular_values
        if not values or not all(0 < value < float("inf") for value in values):
            raise BadInput(f"singular_values must be positive and finite, got {values}.")
        if list(values) != sorted(values, reverse=True):
            raise BadInput(f"singular_values must not rise, got {values}.")
        if min(self.d1, self.d2) < 2 * self.rank:
            raise BadInput(f"d1 and d2 must be at least 2 r = {2 * self.rank}, got {self.d1} and {self.d2}.")
        if not 0 <= self.noise < float("inf"):
            raise BadInput(f"noise must be finite and not negative, got {self.noise}.")
        if not 0 < self.correlation <= 1:
            raise BadInput(f"correlation must be in (0, 1], got {self.correlation}.")

    @property
    def rank(self) -> int:
        """r."""
        return len(self.singular_values)

    @property
    def s(self) -> Array:
        """The singular values, (r,)."""
        return np.array(self.singular_values, np.float64)

    @property
    def latent_variance(self) -> Array:
        """w_k = s_k / correlation, (r,)."""
        return self.s / self.correlation

    @property
    def signal_to_noise(self) -> float:
        """s_r / noise^2, the weakest signal over the variance of a coordinate's noise; infinite without noise."""
        return self.singular_values[-1] / self.noise**2 if self.noise else float("inf")

    def directions(self, key: bytes) -> tuple[Array, Array, Array, Array]:
        """Return U1, U2 and as many orthonormal directions beside each: (d1, r), (d2, r), (d1, r), (d2, r)."""
        rng, r = seeds.generator(key), self.rank
        bases = [np.linalg.qr(rng.standard_normal((d, 2 * r)))[0] for d in (self.d1, self.d2)]
        return bases[0][:, :r], bases[1][:, :r], bases[0][:, r:], bases[1][:, r:]

    def cross_covariance(self, u1: Array, u2: Array) -> Array:
        """Return E[x x~^T] = U1 diag(s) U2^T, (d1, d2): its own singular value decomposition."""
        return (u1 * self.s) @ u2.T

    def records(self, key: bytes, u1: Array, u2: Array, shape: tuple[int, ...]) -> Array:
        """Return independent records of the two views side by side, (*shape, d1 + d2)."""
        rng = seeds.generator(key)
        z, own = rng.standard_normal((2, *shape, self.rank))
        scale = np.sqrt(self.latent_variance)
        other = self.correlation * z + np.sqrt(1.0 - self.correlation**2) * own
        both = rng.standard_normal((*shape, self.d1 + self.d2))
        both *= self.noise
        both[..., : self.d1] += (z * scale) @ u1.T
        both[..., self.d1 :] += (other * scale) @ u2.T
        return both


def spaced(rank: int, largest: float = 2.0, smallest: float = 1.0) -> tuple[float, ...]:
    """Return r evenly spaced singular values from `largest` down to `smallest`; one value is the smallest.

    >>> spaced(3), spaced(1)
    ((2.0, 1.5, 1.0), (1.0,))
    """
    if rank < 1:
        raise BadInput(f"rank must be at least 1, got {rank}.")
    return tuple(np.linspace(largest, smallest, rank).tolist()) if rank > 1 else (smallest,)


def sin_theta(layer: Array, u: Array) -> Array:
    """Return ||sin Theta||_F between the rows of `layer` (..., r, d) and the columns of U (d, r), shape (...).

    The angles Theta_k are the principal angles of the two subspaces: with Q an orthonormal basis of the rows,
    ||sin Theta||_F = ||(I - U U^T) Q||_F, at most sqrt(r). It is invariant under any mixing of the rows.
    """
    basis = np.linalg.qr(np.swapaxes(layer, -1, -2))[0]
    beside = basis - u @ (u.T @ basis)  # not r - ||U^T Q||^2, which cancels for small angles
    return np.linalg.norm(beside, axis=(-2, -1))
