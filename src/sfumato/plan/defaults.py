"""A starting point where the user says only how many records there are."""

MAX_BATCH = 65_536
MIN_BATCH = 64
EPOCHS = 20
MIN_STEPS, MAX_STEPS = 200, 10_000


def default_batch_size(num_records: int) -> int:
    """Return the largest power of two up to N / 24, within 64 .. 65,536 and at most N.

    Large batches are what raises the signal of a private mean gradient; a 24th of the records still leaves the
    sampling something to hide. The upper end is what is bearable on one machine.

    >>> default_batch_size(60_000), default_batch_size(200_000), default_batch_size(233_804_767)
    (2048, 8192, 65536)
    """
    power = 1 << max(num_records // 24, 1).bit_length() - 1
    return min(max(power, MIN_BATCH), MAX_BATCH, num_records)


def default_steps(num_records: int, batch_size: float) -> int:
    """Return the steps that see each record 20 times in expectation, within 200 .. 10,000.

    >>> default_steps(60_000, 2048), default_steps(233_804_767, 65_536)
    (586, 10000)
    """
    return min(max(round(EPOCHS * num_records / batch_size), MIN_STEPS), MAX_STEPS)
