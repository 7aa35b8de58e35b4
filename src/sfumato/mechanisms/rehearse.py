"""The whole mechanism on made-up rows, before the first private one.

At a step nothing that a row brings about is raised: rows whose computation fails count as failed. A fault of the
mechanism itself (a parameter of a shape that its norms do not take) would so leave zero sums, and a run that trains on
noise alone. So a micro-batch of made-up rows that are certified goes through it, where everything is raised.
"""

from dataclasses import replace
from typing import Any

import torch

from sfumato.base import BadInput, Refused
from sfumato.mechanisms.alone import kinds_of_rows
from sfumato.mechanisms.batch import MicroBatch
from sfumato.mechanisms.clip import ClipFactor
from sfumato.mechanisms.clip_batch import clip_batch
from sfumato.mechanisms.computation import Computation
from sfumato.mechanisms.embedded import Ranks, contrast_of
from sfumato.mechanisms.silence import aloud
from sfumato.plan import Group, Pair, Unit

_SEEDS = 3  # of made-up rows whose paths are looked at


def rehearse(
    computation: Computation, unit: Unit, factor: ClipFactor, measured: Any, micro_batch: MicroBatch, batch_size: float
) -> None:
    """Clip a micro-batch of made-up rows in the form of `micro_batch`.

    Args:
        measured: what `Computation.measure` returned.
        batch_size: as of `clip_batch`.

    Raises:
        Refused: the mechanism fails on rows that are certified; or, under the unit Pair, rows take many paths.
    """
    if isinstance(unit, Pair):
        _check_paths(computation, measured, micro_batch)
    count = len(micro_batch.valid)
    valid = torch.ones_like(micro_batch.valid)
    places = torch.arange(count, device=valid.device)
    made_up = MicroBatch(
        batch=measured.sample(count), valid=valid, groups=torch.zeros_like(places), records=places
    )  # fmt: skip
    given = [made_up]
    if isinstance(unit, Group):
        given += [replace(made_up, groups=places * 2 // count), replace(made_up, in_parts=True)]
    for one in given:
        try:
            with aloud():
                _, tally = clip_batch(
                    computation, [one], unit, factor, measure=lambda _: measured, reduce=lambda _: None,
                    reseed=lambda _: None, ranks=Ranks(), batch_size=batch_size,
                )  # fmt: skip
        except (BadInput, Refused):
            raise
        except Exception as error:
            raise Refused(
                f"rows that are certified cannot be clipped ({type(error).__name__}: {str(error)[:200]}): a fault of "
                "sfumato, not of the model. Please report it with the model's class."
            ) from error
        if tally.num_failed + tally.num_alone or tally.num_nonfinite == count:
            raise Refused("rows that are certified were not clipped jointly: please report it with the model's class.")


def _check_paths(computation: Computation, measured: Any, micro_batch: MicroBatch) -> None:
    """Refuse rows whose path depends on their values under the unit Pair, where none can be computed off a path: most
    would count as failed.
    """
    one = replace(micro_batch, valid=torch.ones_like(micro_batch.valid[:1]))
    rows = contrast_of(computation, "Pair").embeddings
    for seed in range(1, 1 + _SEEDS):
        for row in measured.more(seed):
            _, odd = kinds_of_rows(computation, rows, replace(one, batch=row), measured, lambda _: None)
            if bool(odd.any()):
                raise Refused(
                    "under the unit Pair every row must take one of a few paths through the model, and here the path "
                    "depends on the row's values (a layer that sees chosen positions alone, say): apply layers to all "
                    "positions and choose afterwards, or use the unit Group."
                )
