"""The ranges of the numeric settings that commands and recipes share: wide enough for any use, and finite.

Outside of them a run would spend its budget on nothing (a learning rate of 0, a clipping norm that float32 cannot
hold), or would not end on any machine.
"""

from sfumato.base.ranges import Real, Whole


def duration(seconds: float) -> str:
    """Return a time in the unit that suits it.

    >>> duration(1e7), duration(20)
    ('116 days', '20 seconds')
    """
    for size, unit in ((365 * 86_400, "years"), (86_400, "days"), (3_600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:,.0f} {unit}"
    return f"{seconds:,.0f} seconds"


_CORES = "Take about as many as the machine has cores."

RECORDS = Whole(1, 10**12)
PARAMETERS = Whole(1, 10**13)
PROBABILITY = Real(0.0, 1.0, above=True)
BATCH = Whole(1, 10**9, cost=lambda rows: f"At 100,000 records a second, one step is {duration(rows / 1e5)}.")
BATCH_MEAN = Real(0.0, 1e9, above=True, name="--expected-batch-size")  # `plan` takes an expectation that is not whole
STEPS = Whole(1, 10**6, cost=lambda steps: f"At 0.01 s a step, the least there is, that is {duration(steps / 100)}.")
VIEWS = Whole(1, 1024)
CAP = Whole(1, 10**9)
GROUPS = Whole(1, 10**9)
GROUP_SIZE = Real(1.0, 1e9)
EPSILON = Real(1e-9, 1000.0)
DELTA = Real(0.0, 1.0, above=True, below=True)
NOISE = Real(1e-3, 1e6, or_zero=True)
CLIP_NORM = Real(1e-6, 1e6, why="Beyond these float32 loses the sum or the noise.")
TEMPERATURE = Real(0.005, 1000.0)
BIAS = Real(-100.0, 100.0)

MICRO_BATCH = Whole(1, 10**6)
WORKERS = Whole(0, 256, why=_CORES)
JOBS = Whole(1, 256, why=_CORES)
RATE = Real(1e-12, 1e3, why="Outside, training does nothing or destroys the weights.")
DECAY = Real(0.0, 1e3)
SCHEDULE = Whole(0, 10**6)
SHARE = Real(0.0, 1.0)
AVERAGE = Real(0.0, 1.0, above=True, below=True)
LOSS_SCALE = Real(2.0**-24, 2.0**24, why="65536 is usual for float16, 1 for other types.")
DROPOUT = Real(0.0, 0.9, why="What is dropped does not learn.")

IMAGE_SIZE = Whole(1, 4096, cost=lambda side: f"One picture of that size takes {12e-9 * side**2:,.1f} GB.")
CHANNELS = Whole(1, 3)
TOKENS = Whole(1, 4096, cost=lambda n: f"Attention over so many takes {4e-9 * n**2:,.1f} GB for a row and a head.")
EMBED_DIM = Whole(1, 16_384)
RANK = Whole(1, 4096)
ALPHA = Real(1e-6, 1e6)
PIXELS = Whole(1, 178_956_970)  # Pillow opens nothing larger
HOLDOUT = Real(0.0, 1.0, below=True)
WINDOW = Real(-1e9, 1e9)
SCENES = Whole(1, 10**8)
SEED = Whole(0, 2**63 - 1)
