"""The sides of step_time.py whose loss couples rows: InfoNCE within groups, and within the whole batch.

Each private side is compared with the non-private step of the same groups: the same negatives, the same loss.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from _step_bench import CLIP_NORM, Bench, Step
from torch import Tensor

from sfumato import mechanisms, norms
from sfumato.losses import Contrast
from sfumato.mechanisms import Computation, MeasureOnce, MicroBatch, Ranks, clip_batch
from sfumato.mechanisms.batch import Sums
from sfumato.mechanisms.group import clip_whole
from sfumato.mechanisms.group_loss import group_loss
from sfumato.plan import Group, InfoNCE


def _contrast(bench: Bench) -> Contrast:
    assert bench.case.embed is not None
    return Contrast(embed=bench.case.embed, loss=InfoNCE(temperature=1.0), log_scale="logit_scale")


def _cross_entropy(u: Tensor, v: Tensor) -> Tensor:
    """Return the sum over groups of the mean InfoNCE of their rows, u and v (groups, rows, d)."""
    logits = u @ v.mT
    own = torch.arange(logits.shape[1], device=logits.device).expand(len(logits), -1)
    both = F.cross_entropy(logits, own, reduction="sum") + F.cross_entropy(logits.mT, own, reduction="sum")
    return 0.5 * both / logits.shape[1]


def _plain(bench: Bench, group_rows: int) -> Step:
    """Forward, loss of all groups, backward, AdamW."""
    contrast = _contrast(bench)

    def step() -> None:
        u, v = contrast.embeddings(bench.model, bench.batch)
        _cross_entropy(*(x.view(-1, group_rows, x.shape[1]) for x in (u, v))).backward()
        bench.update()

    return step


def _clipped(bench: Bench, group_rows: int) -> Step:
    """Clipped sum of all groups of a micro-batch by the mechanism, added up in float64, AdamW: as for single rows, all
    that a micro-batch costs.
    """
    size = bench.case.rows
    computation = Computation(model=bench.model, loss_fn=_contrast(bench))
    batch = MicroBatch(batch=bench.batch, valid=torch.ones(size, dtype=torch.bool))
    measured = computation.measure(batch)
    sums, loss = Sums(computation.parameters), group_loss(computation)
    sizes = [group_rows] * (size // group_rows)
    used = torch.ones(len(sizes), dtype=torch.bool)

    def step() -> None:
        staged = norms.Staged(loss.rows, loss.whole(batch, sizes))
        result = clip_whole(computation, staged, batch, measured, mechanisms.flat(CLIP_NORM), sizes, used)
        sums.add(result.grads)
        for name, parameter in computation.parameters.items():
            parameter.grad = result.grads[name]
        bench.update()

    return step


def _parts(bench: Bench) -> list[dict[str, Tensor]]:
    size = bench.case.rows // bench.case.parts
    split = {name: value.split(size) for name, value in bench.batch.items()}
    return [{name: values[part] for name, values in split.items()} for part in range(bench.case.parts)]


def plain_in_parts(bench: Bench) -> Step:
    """The whole batch as one group without clipping: embedded in parts, back-propagated in parts, AdamW."""
    contrast, parts = _contrast(bench), _parts(bench)

    def step() -> None:
        with torch.no_grad():
            kept = [contrast.embeddings(bench.model, part) for part in parts]
        leaves = [torch.cat(side)[None].requires_grad_() for side in zip(*kept, strict=True)]
        on_u, on_v = torch.autograd.grad(_cross_entropy(*leaves), leaves)
        size = bench.case.rows // bench.case.parts
        for part, by_u, by_v in zip(parts, on_u[0].split(size), on_v[0].split(size), strict=True):
            torch.autograd.backward(contrast.embeddings(bench.model, part), (by_u, by_v))
        bench.update()

    return step


def clipped_in_parts(bench: Bench) -> Step:
    """The whole batch as one group that is larger than a micro-batch: a logical step of the mechanism, AdamW."""
    size = bench.case.rows // bench.case.parts
    micro_batches = [
        MicroBatch(
            batch=part,
            valid=torch.ones(size, dtype=torch.bool),
            groups=torch.zeros(size, dtype=torch.int64),
            in_parts=True,
        )
        for part in _parts(bench)
    ]
    computation = Computation(model=bench.model, loss_fn=_contrast(bench))
    unit = Group(clip_norm=CLIP_NORM, num_groups=1)
    measure = MeasureOnce(computation)

    def step() -> None:
        clipped, _ = clip_batch(
            computation, micro_batches, unit, mechanisms.clip_factor(unit), measure=measure,
            reduce=lambda flat: None, reseed=lambda chunk: None, ranks=Ranks(), batch_size=float(bench.case.rows),
        )  # fmt: skip
        for name, parameter in computation.parameters.items():
            parameter.grad = clipped.sums[name].to(parameter.dtype)
        bench.update()

    return step


COUPLED: dict[str, Callable[[Bench], Step]] = {
    "non-private groups": lambda bench: _plain(bench, bench.case.group_rows),
    "group": lambda bench: _clipped(bench, bench.case.group_rows),
    "non-private batch": lambda bench: _plain(bench, bench.case.rows),
    "batch": lambda bench: _clipped(bench, bench.case.rows),
    "non-private batch, parts": plain_in_parts,
    "batch, parts": clipped_in_parts,
}
BASES = {
    "group": "non-private groups",
    "batch": "non-private batch",
    "non-private batch, parts": "non-private batch",
    "batch, parts": "non-private batch, parts",
}
