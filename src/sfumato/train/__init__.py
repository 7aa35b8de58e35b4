"""Train: the primitive `PrivateGradients`, the loader that is accounted, and a thin loop over both."""

from sfumato.train.ema import WeightAverage
from sfumato.train.facts import card_facts, planned_facts, record_look
from sfumato.train.fingerprint import differences, flatten
from sfumato.train.finite import check_finite
from sfumato.train.folder import RunFolder
from sfumato.train.loader import DrawnBatch, Loader, loader
from sfumato.train.loop import Finished, Progress, Trainer
from sfumato.train.nonprivate import train_without_privacy
from sfumato.train.private_gradients import PrivateGradients
from sfumato.train.schedule import warmup_cosine
from sfumato.train.standing import check_folder
from sfumato.train.state import OtherModelError
from sfumato.train.workers import lost_workers
from sfumato.train.world import World, join_world

__all__ = [
    "DrawnBatch",
    "Finished",
    "Loader",
    "OtherModelError",
    "PrivateGradients",
    "Progress",
    "RunFolder",
    "Trainer",
    "WeightAverage",
    "World",
    "card_facts",
    "check_finite",
    "check_folder",
    "differences",
    "flatten",
    "join_world",
    "loader",
    "lost_workers",
    "planned_facts",
    "record_look",
    "train_without_privacy",
    "warmup_cosine",
]
