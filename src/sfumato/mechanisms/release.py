"""From a clipped sum to what may leave: add noise, divide by a public constant, nothing in between.

`Released` is the only type that optimizer, log and disk accept, and `release` is the only function that makes one.
"""

from collections.abc import Mapping
from dataclasses import InitVar, dataclass, field
from types import MappingProxyType
from typing import Any, NoReturn, Protocol, final

import torch
from torch import Tensor

from sfumato.base import Refused, seeds
from sfumato.mechanisms.batch import Clipped

_ONLY_RELEASE = object()


class NoiseAndDivisor(Protocol):
    """What `release` reads of a plan."""

    @property
    def noise_std(self) -> float: ...
    @property
    def divisor(self) -> float: ...
    @property
    def presence(self) -> float | None: ...
    @property
    def swap(self) -> float | None: ...


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Released:
    """The noised gradient of one step, by parameter name, in each parameter's dtype. Made by `release` only.

    It cannot be subclassed, copied, pickled or built by hand: wherever one is found, noise was added.
    """

    grads: Mapping[str, Tensor] = field(repr=False)
    token: InitVar[object]

    def __post_init__(self, token: object) -> None:
        if token is not _ONLY_RELEASE:
            raise TypeError("a Released gradient is made by sfumato.mechanisms.release only.")

    def __init_subclass__(cls, **_: Any) -> NoReturn:
        raise TypeError("Released is final.")

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise TypeError("a Released gradient is neither copied nor pickled: copy its tensors.")


def release(clipped: Clipped, plan: NoiseAndDivisor, key: bytes) -> Released:
    """Return (sum + noise_std z) / divisor, z standard normal in float64, one stream per parameter name.

    Args:
        clipped: the sum over the whole logical batch (after the all-reduce).
        plan: owns the noise std, the divisor (public constants) and the distances that the noise was chosen for.
        key: the step's noise key; equal keys give equal noise, so equal releases on every rank.

    Raises:
        Refused: the sum states other distances than the plan accounts for.
    """
    if (clipped.presence, clipped.swap) != (plan.presence, plan.swap):
        raise Refused(
            f"the clipped sum states presence {clipped.presence} and swap {clipped.swap}, "
            f"the plan accounts for {plan.presence} and {plan.swap}."
        )
    grads = {
        name: _noised(total, plan.noise_std, plan.divisor, seeds.derive(key, name)).to(clipped.dtypes[name])
        for name, total in clipped.sums.items()
    }
    return Released(grads=MappingProxyType(grads), token=_ONLY_RELEASE)


def _noised(total: Tensor, std: float, divisor: float, key: bytes) -> Tensor:
    normal = torch.from_numpy(seeds.normals(key, total.numel())).view(total.shape)
    return (total + std * normal.to(total.device)) / divisor
