"""Losses of pairwise similarities, as numbers: their constants, and how far one record moves what a pair unit sums.

n records have embeddings u_i, v_i of unit norm and similarities Z_ij = <u_i, v_j> in [-1, 1]. A loss is a function of
Z alone, so its gradient is sum_ij D_ij grad Z_ij with D = dL / dZ. The pair unit scales each grad Z_ij to norm B at
most and keeps the true weights D (Logit-DP, arXiv 2310.03104, Algorithm 1). Grad Z_ij depends on records i and j
only; D_ij may depend on all. Hence, when a record joins, the sum moves by at most B times

    sum of |D| over the new row and the new column + sum of |D' - D| over all old pairs,

and when record k is exchanged, by B times (sum of |D| + |D'| over row and column k) + sum of |D' - D| elsewhere. Each
loss below bounds these sums in closed form. Every scale that touches Z (temperature, bias) is inside. The values of
the losses and their weights D, on tensors, are in `sfumato.losses`.
"""

import math
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from sfumato.base import BadInput
from sfumato.plan.checks import positive


@runtime_checkable
class PairLoss(Protocol):
    """What a pair unit needs to know of a loss: two sums of absolute weights, and its name in words."""

    def joining(self, n: int | None) -> float:
        """Return the largest movement in units of B when a record joins, n records then; None: whatever n is."""
        ...

    def exchanging(self, n: int | None) -> float:
        """Return the largest movement in units of B when one of n records is exchanged; None: whatever n is."""
        ...

    def largest_weight(self, n: int) -> float:
        """Return the largest sum of |D| over all pairs of n records: how much signal there can be, in units of B."""
        ...

    def describe(self) -> str:
        """Return the loss in words, for the card."""
        ...


@dataclass(frozen=True, kw_only=True)
class InfoNCE:
    """l_i = -log p_ii, p_ij = softmax over j of Z_ij / tau; summed over rows, or averaged with that over columns.

    Attributes:
        temperature: tau, a public constant.
        symmetric: the mean of both directions (CLIP) instead of rows alone.

    Joining: (1/tau) [2 (1 - p_min) + 2 (n - 1) p_max], a = e^(2/tau), p_max = a / (a + n - 1), p_min = 1 / (1 + (n -
        1) a).
    Proof, rows: D_ij = (p_ij - [i = j]) / tau. Let k join, n records then, p' the new probabilities. Its row has
    sum_j |D_kj| = 2 (1 - p'_kk) / tau, and p'_kk >= p_min because |Z| <= 1. Its column has sum_i p'_ik / tau over the
    n - 1 others. Old entries: p'_ij = p_ij (1 - p'_ik), so row i moves by sum_j p_ij p'_ik / tau = p'_ik / tau: as
    much again. p'_ik <= p_max gives the claim. Exchanging: (1/tau) [4 (1 - p_min) + 2 (n - 1) p_max]: row k counts with
    both of its values; in row i, with s the softmax that leaves k out, p_ij = s_j (1 - p_ik), so column and old
    entries give p_ik + p'_ik + |p_ik - p'_ik| = 2 max(p_ik, p'_ik) <= 2 p_max. Both directions: D is the mean of the
    two directions' weights, and so is every sum above. Both bounds grow with n, to (1/tau)(2 + 2a) and (1/tau)(4 + 2a):
    these hold for every n. QED. Joining is attained by u_i = u, v_i = -u for i < n and u_n = -u, v_n = u where the pair
    gradients are aligned with the signs of their weights' changes.

    Raises:
        BadInput: the temperature is not positive and finite, or so small that e^(2/tau) is no float.
    """

    temperature: float
    symmetric: bool = True

    def __post_init__(self) -> None:
        positive("temperature", self.temperature)
        if 2.0 / self.temperature > 700.0:
            raise BadInput(f"temperature {self.temperature} is too small: e^(2/temperature) is beyond any number here.")

    @property
    def ratio(self) -> float:
        """a = e^(2/tau): the largest ratio of two entries of one softmax."""
        return math.exp(2.0 / self.temperature)

    def joining(self, n: int | None) -> float:
        """Return (1/tau) [2 (1 - p_min) + 2 (n - 1) p_max]; for None (1/tau)(2 + 2a)."""
        return (self._own_row(n) + self._others(n)) / self.temperature

    def exchanging(self, n: int | None) -> float:
        """Return (1/tau) [4 (1 - p_min) + 2 (n - 1) p_max]; for None (1/tau)(4 + 2a)."""
        return (2.0 * self._own_row(n) + self._others(n)) / self.temperature

    def largest_weight(self, n: int) -> float:
        """Return 2 n (1 - p_min) / tau."""
        return n * self._own_row(n) / self.temperature

    def _own_row(self, n: int | None) -> float:
        if n is None:
            return 2.0
        return 2.0 * (1.0 - 1.0 / (1.0 + (n - 1) * self.ratio))

    def _others(self, n: int | None) -> float:
        if n is None:
            return 2.0 * self.ratio
        return 2.0 * (n - 1) * (self.ratio / (self.ratio + n - 1))

    def describe(self) -> str:
        """Return the loss in words, for the card."""
        return f"InfoNCE ({'both directions' if self.symmetric else 'rows'}), temperature {self.temperature:g}"


@dataclass(frozen=True, kw_only=True)
class Sigmoid:
    """sum_ij softplus(-y_ij (Z_ij / tau + b)), y = 1 on the diagonal and -1 elsewhere (SigLIP, arXiv 2303.15343).

    Attributes:
        temperature: tau, a public constant.
        bias: b, a public constant.

    Joining: (1/tau) [s(1/tau - b) + 2 (n - 1) s(1/tau + b)], s the logistic function. Proof. D_ij = -(y_ij / tau)
    s(-y_ij (Z_ij / tau + b)) depends on the pair alone, so old pairs do not move. |D_ii| is largest at Z_ii = -1,
    |D_ij| at Z_ij = 1; a joining record brings one of the former and 2 (n - 1) of the latter. Exchanging: twice that,
    both values of row and column k. QED. Both grow with n without a limit: a public n is needed.

    Raises:
        BadInput: the temperature is not positive, or the bias not finite.
    """

    temperature: float
    bias: float = 0.0

    def __post_init__(self) -> None:
        positive("temperature", self.temperature)
        if not math.isfinite(self.bias):
            raise BadInput(f"bias must be finite, got {self.bias!r}.")

    def joining(self, n: int | None) -> float:
        """Return (1/tau) [s(1/tau - b) + 2 (n - 1) s(1/tau + b)]; infinite for None."""
        if n is None:
            return math.inf
        scale = 1.0 / self.temperature
        return scale * (_logistic(scale - self.bias) + 2.0 * (n - 1) * _logistic(scale + self.bias))

    def exchanging(self, n: int | None) -> float:
        """Return twice `joining`."""
        return 2.0 * self.joining(n)

    def largest_weight(self, n: int) -> float:
        """Return (n / tau) [s(1/tau - b) + (n - 1) s(1/tau + b)]."""
        scale = 1.0 / self.temperature
        return n * scale * (_logistic(scale - self.bias) + (n - 1) * _logistic(scale + self.bias))

    def describe(self) -> str:
        """Return the loss in words, for the card."""
        return f"sigmoid loss of all pairs, temperature {self.temperature:g}, bias {self.bias:g}"


@dataclass(frozen=True, kw_only=True)
class SpreadOut:
    """l_i = (1 / (n - 1)) sum_{j != i} Z_ij^2, n the number of records at hand; one record alone gives zero.

    Joining: 6. Proof. D_ij = 2 Z_ij / (n - 1) off the diagonal, so |D_ij| <= 2 / (n - 1): the new row and the new
    column have n - 1 such entries each, 2 + 2. Each of the (n - 1)(n - 2) old entries moves from 2 Z / (n - 2) to 2 Z
    / (n - 1), by at most 2 / ((n - 1)(n - 2)): 2 together. Exchanging: 8; row and column count with both values, 4 +
    4, and no other entry moves. For n = 2 a joining record meets no old entries, for n = 1 nothing at all. QED.
    """

    def joining(self, n: int | None) -> float:
        """Return 6; 4 for n = 2, 0 for n = 1."""
        return {1: 0.0, 2: 4.0}.get(n or 0, 6.0)

    def exchanging(self, n: int | None) -> float:
        """Return 8; 0 for n = 1."""
        return 0.0 if n == 1 else 8.0

    def largest_weight(self, n: int) -> float:
        """Return 2 n; 0 for n = 1."""
        return 0.0 if n == 1 else 2.0 * n

    def describe(self) -> str:
        """Return the loss in words, for the card."""
        return "spread-out loss (mean squared similarity to the others)"


@dataclass(frozen=True, kw_only=True)
class ConjecturedLoss:
    """A researcher's own loss of similarities, its bounds claimed and not proved: it trains under pairs, and no epsilon
    is printed.

    The loss itself is code and is handed to `losses.Contrast`; the plan holds its name and what is claimed of it.

    Attributes:
        rule: what the loss is, in words; printed on the card.
        join: claimed largest movement in units of B when a record joins, at the largest draw of the plan.
        exchange: the same when a record is exchanged.
        weight: claimed largest sum of |D| per record: how much signal there can be.

    Raises:
        BadInput: a number is not positive, or the rule has no name.
    """

    rule: str
    join: float
    exchange: float
    weight: float = 1.0

    def __post_init__(self) -> None:
        for name in ("join", "exchange", "weight"):
            positive(name, getattr(self, name))
        if not isinstance(self.rule, str) or not self.rule.strip():
            raise BadInput("a ConjecturedLoss needs a rule: say in words what it does.")

    def joining(self, n: int | None) -> float:
        """Return what is claimed."""
        del n
        return self.join

    def exchanging(self, n: int | None) -> float:
        """Return what is claimed."""
        del n
        return self.exchange

    def largest_weight(self, n: int) -> float:
        """Return n times what is claimed for one record."""
        return n * self.weight

    def describe(self) -> str:
        """Return the loss in words, for the card."""
        claimed = f"joining {self.join:g} B, exchange {self.exchange:g} B"
        return f"conjectured loss ({self.rule}); claimed, not proved: {claimed}"


def _logistic(x: float) -> float:
    return 1.0 / (1.0 + math.exp(-x)) if x >= 0 else math.exp(x) / (1.0 + math.exp(x))
