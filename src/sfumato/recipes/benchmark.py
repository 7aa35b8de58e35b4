"""How long a plan takes and what memory it needs, measured on synthetic inputs: no data is touched."""

import resource
import statistics
import sys
import time
from typing import Any

import torch

from sfumato import losses, mechanisms, models, norms

_REPEATS = 5


def measure(
    size: str, image_size: int | None, micro_batch_size: int, expected_batch_size: float, steps: int
) -> dict[str, float]:
    """Return hours and peak memory of `steps` logical batches, from the median of a few private micro-batches here.

    Args:
        size: of the captioner, with its vocabulary and text length.
        image_size: pixels of a side; None takes what is usual for the size.
        micro_batch_size: rows in memory at once.
        expected_batch_size: rows of a logical batch, in expectation.
        steps: of the plan.

    Returns:
        hours; memory_bytes (peak of this process, or of the device); seconds_per_micro_batch; noise_seconds.
    """
    spec = models.SIZES[size]
    image_size = image_size or spec.image_size
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model: Any = models.build(
        size, vocab_size=spec.vocab_size, image_size=image_size, max_tokens=spec.max_tokens, seed=0
    )
    model.to(device)
    batch = {
        "pixel_values": torch.randn(micro_batch_size, 3, image_size, image_size, device=device),
        "labels": torch.randint(5, spec.vocab_size, (micro_batch_size, spec.max_tokens), device=device),
    }
    measured = norms.prepare(model, losses.caption_loss, batch)
    factor = mechanisms.flat(1.0)

    def step() -> None:
        norms.clipped_sum(model, losses.caption_loss, batch, measured, factor)

    seconds = _median_seconds(step, device)
    noise = _median_seconds(lambda: _noise(sum(p.numel() for p in model.parameters() if p.requires_grad)), device)
    per_step = expected_batch_size / micro_batch_size * seconds + noise
    return {
        "hours": steps * per_step / 3600,
        "memory_bytes": _peak_bytes(device),
        "seconds_per_micro_batch": seconds,
        "noise_seconds": noise,
    }


def _noise(count: int) -> None:
    from sfumato.base import seeds

    seeds.normals(bytes(32), count)


def _median_seconds(work: Any, device: torch.device) -> float:
    times = []
    for _ in range(_REPEATS):
        begun = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - begun)
    return statistics.median(times)


def _peak_bytes(device: torch.device) -> float:
    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated(device))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return float(peak if sys.platform == "darwin" else 1024 * peak)
