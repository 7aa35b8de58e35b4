"""What a run takes at the least, known before anything is loaded; what cannot fit or end is refused."""

from sfumato.base import BadInput
from sfumato.base.limits import duration
from sfumato.recipes.doctor_cost import machine_bytes
from sfumato.recipes.run import Run

_NUMBER = 4  # bytes of a float32
_ROWS_PER_SECOND = 1e5  # more than any model here trains on one machine
_TOKENS_PER_SECOND = 1e7
_MOST_SECONDS = 366 * 86_400


def check_work(run: Run) -> None:
    """Check that the rows of one micro-batch fit into memory, and that all steps end.

    Raises:
        BadInput: with the estimate and the settings that it depends on.
    """
    model, training, privacy = run.model, run.training, run.privacy
    side = run.asking.image_size or model.image_size
    pixels = training.micro_batch_size * model.channels * side**2 * _NUMBER
    left = machine_bytes()
    if pixels > left:
        raise BadInput(
            f"--micro-batch-size {training.micro_batch_size:,} pictures of --image-size {side:,} take "
            f"{pixels / 1e9:,.1f} GB before any layer is computed; this machine has {left / 1e9:,.1f} GB left: choose "
            "smaller ones."
        )
    rows = privacy.steps * privacy.batch_size * privacy.views
    tokens = rows * (run.asking.max_question + run.asking.max_answer if model.kind == "vlm" else model.max_tokens or 1)
    seconds = max(rows / _ROWS_PER_SECOND, tokens / _TOKENS_PER_SECOND)
    if seconds > _MOST_SECONDS:
        raise BadInput(
            f"--steps {privacy.steps:,} of {privacy.batch_size:,} expected records (--expected-batch-size), "
            f"--views {privacy.views:,}, take {duration(seconds)} at the least, on a fast machine: choose smaller ones."
        )
