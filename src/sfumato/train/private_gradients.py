"""The primitive of training: one logical batch in, one released gradient in `p.grad`.

for step, micro_batches in sf.loader(dataset, private, micro_batch_size=64):
    private.backward(step, micro_batches)
    optimizer.step(); scheduler.step(); optimizer.zero_grad()
"""

import functools
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from sfumato import mechanisms
from sfumato.base import BadInput, Refused, seeds
from sfumato.losses import Contrast, full_float32
from sfumato.mechanisms import ClipFactor, Clipped, Computation, Engine, LossFn, MicroBatch, Ranks, Tally
from sfumato.plan import Plan
from sfumato.plan.spent import DECLARED, Spent, spent
from sfumato.train import fingerprint, log
from sfumato.train.attempts import Verdict
from sfumato.train.book import Book
from sfumato.train.folder import RunFolder
from sfumato.train.guard import StepGuard
from sfumato.train.host import Watch, check_plain, plain_optimizer
from sfumato.train.hush import hushed
from sfumato.train.keys import Keys
from sfumato.train.loader import DrawnBatch
from sfumato.train.shape import ConstantShape, Prepared
from sfumato.train.state import device_of, keyed_hash, moving_state, reseed_model, restore, set_grads, state_of
from sfumato.train.workers import default_sigchld
from sfumato.train.world import World, join_world


class PrivateGradients:
    """Computes the released gradient of each step of a plan, and keeps the ledger of what was charged.

    Args:
        model: any module; its trainable parameters must be measured exactly (norms) or are refused by name.
        loss_fn: `loss_fn(model, batch)` gives one value per row, shape (N,); rows independent. Under the units Group
            and Pair a `Contrast`, in which rows meet.
        plan: unit, sampler, noise, steps.
        out: the run's folder; `private/` and `export/` are made in it. Written by one process at a time.
        seed: None takes a secret one. One's own makes the run reproducible, and its card says "public seed".
        optimizer: named in the fingerprint, so that runs that differ in it share no noise. Not stepped here; each
            of its steps must apply one released gradient.
        clip_factor: norms (N,) -> factors (N,); with a `Conjectured` unit only.
        loss_scale: public constant for fp16; divided out before clipping.
        autocast: dtype of torch.autocast for the forward pass; norms and sums stay float32 and float64.
        reveal: "debug" lets `revealed` show un-noised numbers; the card says so for ever.
        accept_new_attempt: go on where steps cannot be replayed bit for bit, and charge them again.
        settings: further public facts of the run for the fingerprint (schedule, preprocessing).
        synthetic: n -> a batch of n made-up rows, for models to which ones and zeros are no valid integers.
        world: the ranks; by default those that torchrun started.

    Raises:
        BadInput: a setting contradicts the plan, another process writes this run, or the model is wrapped.
    """

    def __init__(
        self,
        model: nn.Module,
        loss_fn: LossFn | Contrast,
        plan: Plan,
        *,
        out: str | Path,
        seed: int | bytes | None = None,
        optimizer: torch.optim.Optimizer | None = None,
        clip_factor: ClipFactor | None = None,
        loss_scale: float = 1.0,
        autocast: torch.dtype | None = None,
        reveal: str | None = None,
        accept_new_attempt: bool = False,
        settings: Mapping[str, Any] | None = None,
        synthetic: Callable[[int], Any] | None = None,
        world: World | None = None,
        engine: Engine | None = None,
    ) -> None:
        if reveal not in (None, "debug"):
            raise BadInput(f'reveal is None or "debug", got {reveal!r}.')
        _ = plan.noise_std  # raises for a plan that was not calibrated, before anything is written
        optimizer = plain_optimizer(optimizer)
        check_plain(model)  # before anything is written, and again when the fingerprint is settled
        device = device_of(model)
        self.plan, self.world = plan, world or join_world(device)
        self.step = 0
        self._factor = mechanisms.clip_factor(plan.unit, clip_factor)
        self._computation = Computation(
            model=model,
            loss_fn=loss_fn,
            loss_scale=loss_scale,
            autocast=functools.partial(torch.autocast, device.type, dtype=autocast) if autocast else None,
            synthetic=synthetic,
            engine=engine or Engine(),
        )
        self._fields = {
            **fingerprint.flatten("plan", plan.to_json()),
            **fingerprint.function_fields("loss", loss_fn),
            **fingerprint.function_fields("clip_factor", clip_factor),
            **fingerprint.optimizer_fields(optimizer),
            **fingerprint.flatten("settings", settings or {}),
            "loss_scale": loss_scale,
            "autocast": str(autocast),
        }
        self._reveal = reveal
        self._keys: Keys | None = None
        self._bound: Mapping[str, Any] = {}  # data fields of the loader that the fingerprint speaks of
        self._shape = ConstantShape(device)
        self._measure = mechanisms.MeasureOnce(self._computation, self._rehearse)
        self._tally: Tally | None = None
        self._book = Book(RunFolder(Path(out)), self.world, plan=plan, seed=seed, accept=accept_new_attempt)
        self._commitment_key = seeds.derive(self._book.seed.value, "commitment")
        self._guard = StepGuard(model)
        self._watch = Watch(model, optimizer, self.world, joined=world is None)

    # ---------------------------------------------------------------- the run and its attempt

    @property
    def keys(self) -> Keys:
        """The keys of the current attempt; they exist once a loader settled the fingerprint."""
        if self._keys is None:
            raise BadInput("make a loader for this run first: the data set is part of its fingerprint.")
        return self._keys

    @property
    def attempt(self) -> int:
        """The number of the current attempt."""
        return self.keys.attempt

    @property
    def folder(self) -> RunFolder:
        """Where the run's files lie."""
        return self._book.folder

    @property
    def spent(self) -> Spent:
        """Every step charged so far, from the ledger. Raises Refused for what is not proved."""
        return spent(self._book.history)

    @property
    def epsilon(self) -> float:
        """Epsilon of every step charged so far, from the ledger. Raises Refused for what is not proved."""
        return self.spent.epsilon()

    @property
    def revealed(self) -> Tally:
        """Un-noised counts and the summed loss of the last step; only with reveal="debug"."""
        if self._reveal != "debug" or self._tally is None:
            raise Refused('un-noised numbers are private: they show after a step, with reveal="debug".')
        return self._tally

    def bind(self, fields: Mapping[str, Any]) -> None:
        """Settle the fingerprint by the data fields. `loader` calls this.

        Raises:
            BadInput: the run was begun with other settings; the message names them and the cost of going on.
        """
        model, device, own = self._computation.model, self.world.device, dict(fields)
        fields = {
            **self._fields,
            **fingerprint.model_fields(model),
            **fingerprint.surrounding_fields(device, self.world.size),
            **own,
        }
        looks: dict[str, Mapping[str, Any]] = {}
        if self._reveal:
            looks["debug revealed"] = {}
        if self.plan.is_simulation:
            looks["simulation"] = {"steps": self.plan.steps}
        self._keys = self._book.join(fields, step=self.step, looks=looks)
        self._bound = own
        self._watch.open()

    def declare_batches(self, how: str) -> None:
        """Accept micro-batches that `loader` did not draw. The run prints no epsilon: its sampling is not known.

        Args:
            how: in words, for the card ("Poisson by my own sampler").
        """
        self.bind({DECLARED: how})

    # ---------------------------------------------------------------- a step

    def backward(self, step: int, micro_batches: Iterable[MicroBatch]) -> None:
        """Set `p.grad` of every trainable parameter to the released gradient of this step.

        The step is in the ledger, on the disk, before noise is drawn and anything leaves.

        Args:
            step: as given by the loader; each step once, in order.
            micro_batches: as given by the loader of this very object.

        Raises:
            BadInput: a step out of order, batches of another loader, a charged step that comes out otherwise, or what
                a trainer around it must not do (`train.host`).
            Refused: a parameter or the loss cannot be measured exactly.
        """
        self._check_turn(step, micro_batches)
        self._watch.before(step)
        self._certify(step, micro_batches)
        weights = self._hash(moving_state(self._computation.model))
        for _ in range(2):
            clipped, tally, failures = self._clip(step, micro_batches)
            clipped_sum = self._hash(clipped.sums)
            verdict = self._book.settle(self.keys, step=step, weights=weights, clipped_sum=clipped_sum)
            if verdict is not Verdict.CONFLICT:
                break
            self._keys = self._book.next_attempt(self.keys, step=step)
        # The sum's own hash is in the key: were a copy of this run ever to compute another sum here, it would get
        # other noise, so that no two different sums are published under one noise.
        released = mechanisms.release(clipped, self.plan, self.keys.key("noise", step, clipped_sum))
        set_grads(self._computation.model, released)
        self._watch.released(step)
        self.step += 1
        self._tally = tally
        if self.world.first:
            log.private_line(self.folder.log, attempt=self.attempt, step=step, tally=tally, failures=failures)

    def _certify(self, step: int, micro_batches: Iterable[MicroBatch]) -> None:
        """Hold the model to made-up rows where that is due, before any private row of the step is looked at."""
        template = micro_batches.template if isinstance(micro_batches, DrawnBatch) else None
        device = self.world.device
        with full_float32(), torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            self._measure.before(step, None if template is None else self._shape.take(template))

    def _rehearse(self, measured: Any, micro_batch: MicroBatch) -> None:
        mechanisms.rehearse(
            self._computation, self.plan.unit, self._factor, measured, micro_batch, self.plan.batch_size
        )

    def _check_turn(self, step: int, micro_batches: Iterable[MicroBatch]) -> None:
        if not (DECLARED in self._bound or self._drawn_for(step, micro_batches)):
            raise BadInput(
                "these micro-batches were not drawn for this step by sf.loader(dataset, private): what trains must be "
                "what is accounted. (private.declare_batches takes others, and prints no epsilon.)"
            )
        if iter(micro_batches) is micro_batches:
            raise BadInput("micro_batches must be iterable more than once (a list, not a generator).")
        if step != self.step:
            raise BadInput(f"step {step} is out of turn: each step is done once, and the next one is {self.step}.")
        if step >= self.plan.steps:
            raise BadInput(f"the plan has {self.plan.steps} steps, and all are done.")

    def _drawn_for(self, step: int, micro_batches: Iterable[MicroBatch]) -> bool:
        return (
            isinstance(micro_batches, DrawnBatch)
            and micro_batches.run is self
            and micro_batches.step == step
            and micro_batches.loader.fields == self._bound
        )

    def _clip(self, step: int, micro_batches: Iterable[MicroBatch]) -> tuple[Clipped, Tally, Counter[str]]:
        failures: Counter[str] = Counter()

        device = self.world.device

        def reseed(chunk: int) -> None:
            reseed_model(self.keys.key("model", step, self.world.rank, chunk), device)

        self._guard.before()
        try:
            with default_sigchld(), nullcontext() if self._reveal else hushed():
                return (*self._summed(step, micro_batches, reseed, failures), failures)
        finally:
            self._guard.after()

    def _summed(
        self, step: int, micro_batches: Iterable[MicroBatch], reseed: Callable[[int], None], failures: Counter[str]
    ) -> tuple[Clipped, Tally]:
        device = self.world.device
        with full_float32(), torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            return mechanisms.clip_batch(
                self._computation,
                Prepared(micro_batches, self._shape, failures),
                self.plan.unit,
                self._factor,
                measure=self._measure,
                reduce=self.world.add_up,
                reseed=reseed,
                ranks=Ranks(gather=self.world.gather, add_up=self.world.add_up, first=self.world.first),
                batch_size=self.plan.batch_size,
            )

    def _hash(self, tensors: Mapping[str, Tensor]) -> str:
        return keyed_hash(tensors, self._commitment_key)

    # ---------------------------------------------------------------- saving and resuming

    def save(self, optimizer: Any = None, scheduler: Any = None, extra: Any = None, *, keep_last: int = 2) -> None:
        """Write a checkpoint: whole or not at all. `extra` is any nesting of tensors and plain values.

        Raises:
            BadInput: some state is neither a tensor nor a plain value.
        """
        state = state_of(self._computation.model, optimizer, scheduler) | {"extra": extra, "step": self.step}
        self._book.save(state, step=self.step, keep_last=keep_last)

    def load(self, optimizer: Any = None, scheduler: Any = None) -> Any:
        """Restore the latest checkpoint and go on from its step; return its `extra` (None if there is none yet).

        Steps that were charged after the checkpoint are replayed: equal bits, no further charge.

        Raises:
            BadInput: the checkpoint is damaged, or belongs to another ledger.
        """
        state = self._book.load()
        if state is None:
            return None
        restore(state, self._computation.model, optimizer, scheduler)
        self._watch.forget()
        self.step = state["step"]
        return state["extra"]

    def close(self) -> None:
        """Let other processes write the run's folder, and other backward passes use the model."""
        self._watch.close()
        self._book.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
