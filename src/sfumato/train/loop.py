"""The Trainer: a thin loop over `PrivateGradients` and `loader`. Nothing in it is needed for the guarantee."""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sfumato.base import Refused
from sfumato.losses import Contrast
from sfumato.mechanisms import ClipFactor, LossFn
from sfumato.plan import Plan
from sfumato.plan.spent import EXACT, QUICK
from sfumato.train import log
from sfumato.train.ema import WeightAverage
from sfumato.train.finite import check_finite
from sfumato.train.loader import DrawnBatch, loader
from sfumato.train.private_gradients import PrivateGradients
from sfumato.train.rows import CollateFn
from sfumato.train.workers import lost_workers
from sfumato.train.world import World


@dataclass(frozen=True, kw_only=True)
class Progress:
    """What may be shown while a run goes on.

    Attributes:
        step, total: steps done, steps planned.
        eta_seconds: time left at the pace of this process so far.
        epsilon: of the ledger, or None where none is proved.
        loss: mean loss of the last step, un-noised: only with reveal="debug".
        measured: what the trainer's `measure` returned.
    """

    step: int
    total: int
    eta_seconds: float
    epsilon: float | None
    loss: float | None = None
    measured: float | None = None


@dataclass(frozen=True, kw_only=True)
class Finished:
    """A run that went through. The weights are in the model; `average` holds the averaged ones if asked for.

    Attributes:
        steps: done in all; `done_here` of them by this call.
        epsilon: of the ledger, or None where none is proved.
    """

    steps: int
    epsilon: float | None
    done_here: int
    average: WeightAverage | None = None


@dataclass(frozen=True, kw_only=True)
class Trainer:
    """Trains `model` under `plan`; the same call again resumes from the last checkpoint.

    Settings that `PrivateGradients` and `loader` have too mean the same here.

    Attributes:
        optimizer, scheduler: any of torch; the scheduler is stepped once per step.
        checkpoint_every: steps between checkpoints (the last step always has one); `keep_last` of them stay.
        report_every: steps between calls of `on_progress` and lines of export/progress.jsonl; by default 20 in all.
        ema_decay: keeps an exponential average of the released weights.
        measure: called on rank 0 with the number of steps done before each report; it looks at the released weights and
            at public data only, and leaves the model as it is.
        on_progress: called on rank 0 with a `Progress`.
    """

    model: nn.Module
    loss_fn: LossFn | Contrast
    dataset: Any
    plan: Plan
    out: str | Path
    optimizer: torch.optim.Optimizer
    micro_batch_size: int
    scheduler: Any = None
    collate_fn: CollateFn | None = None
    num_workers: int = 0
    checkpoint_every: int = 100
    keep_last: int = 2
    report_every: int | None = None
    ema_decay: float | None = None
    seed: int | bytes | None = field(default=None, repr=False)
    clip_factor: ClipFactor | None = None
    loss_scale: float = 1.0
    autocast: torch.dtype | None = None
    reveal: str | None = None
    accept_new_attempt: bool = False
    settings: Mapping[str, Any] | None = None
    synthetic: Callable[[int], Any] | None = None
    world: World | None = None
    measure: Callable[[int], float] | None = None
    on_progress: Callable[[Progress], None] | None = None

    def fit(self) -> Finished:
        """Run all steps that the plan has left.

        Raises:
            Stopped: a process of the run was killed; the same call again resumes.
            BadInput: the released weights are not finite any more: the steps done are charged, and no checkpoint holds
                these weights.
        """
        with lost_workers(), self._private() as private:
            average = WeightAverage(self.model, self.ema_decay) if self.ema_decay else None
            extra = private.load(self.optimizer, self.scheduler)
            if average and extra and "average" in extra:
                average.load(extra["average"])
            batches = loader(
                self.dataset,
                private,
                micro_batch_size=self.micro_batch_size,
                collate_fn=self.collate_fn,
                num_workers=self.num_workers,
            )
            first = private.step
            self._run(private, iter(batches), average)
            epsilon = _epsilon(private, EXACT)
            return Finished(steps=private.step, epsilon=epsilon, done_here=private.step - first, average=average)

    def _private(self) -> PrivateGradients:
        return PrivateGradients(
            self.model,
            self.loss_fn,
            self.plan,
            out=self.out,
            seed=self.seed,
            optimizer=self.optimizer,
            clip_factor=self.clip_factor,
            loss_scale=self.loss_scale,
            autocast=self.autocast,
            reveal=self.reveal,
            accept_new_attempt=self.accept_new_attempt,
            settings={**(self.settings or {}), "ema_decay": self.ema_decay},
            synthetic=self.synthetic,
            world=self.world,
        )

    def _run(
        self, private: PrivateGradients, batches: Iterator[tuple[int, DrawnBatch]], average: WeightAverage | None
    ) -> None:
        total, begun, first = self.plan.steps, time.monotonic(), private.step
        every = self.report_every or max(total // 20, 1)
        for step, micro_batches in batches:
            private.backward(step, micro_batches)
            self._update(average)
            done = step + 1
            check_finite(self.model, done)  # before a checkpoint takes them over
            if done % self.checkpoint_every == 0 or done == total:
                extra = {"average": average.weights} if average else {}
                private.save(self.optimizer, self.scheduler, extra, keep_last=self.keep_last)
            if private.world.first and (done % every == 0 or done == total):
                pace = (time.monotonic() - begun) / (done - first)
                self._report(private, pace * (total - done))

    def _update(self, average: WeightAverage | None) -> None:
        self.optimizer.step()
        if self.scheduler is not None:
            self.scheduler.step()
        self.optimizer.zero_grad()
        if average:
            average.update(self.model)

    def _report(self, private: PrivateGradients, eta_seconds: float) -> None:
        epsilon = _epsilon(private, QUICK)
        log.public_line(private.folder.progress, step=private.step, epsilon=epsilon)
        progress = Progress(
            step=private.step,
            total=self.plan.steps,
            eta_seconds=eta_seconds,
            epsilon=epsilon,
            loss=private.revealed.mean_loss if self.reveal else None,
            measured=self.measure(private.step) if self.measure else None,
        )
        if self.on_progress:
            self.on_progress(progress)


def _epsilon(private: PrivateGradients, discretization: float) -> float | None:
    """Epsilon where there is one; a run without a proof goes on, and prints none."""
    try:
        return private.spent.epsilon(discretization=discretization)
    except Refused:
        return None
