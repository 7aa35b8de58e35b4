"""Deliberate bugs, most of them met in published code: each replaces one piece of the real path.

A bug is a function of pytest's monkeypatch. test_bugs.py shows for each that a guarantee check fails under it.
"""

import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from tests.guarantees.harness import CLIP_NORM

from sfumato import mechanisms
from sfumato.base import seeds
from sfumato.mechanisms import example, group, group_parts
from sfumato.mechanisms.batch import Sums
from sfumato.sampling import Poisson
from sfumato.train import attempts, book, log, loop
from sfumato.train.attempts import Verdict
from sfumato.train.keys import Keys
from sfumato.train.rows import Assemble, Failed, RowRequest, Rows
from sfumato.train.shares import Shares

loader_module = sys.modules["sfumato.train.loader"]
clip_rules = sys.modules["sfumato.mechanisms.clip"]
release_module = sys.modules["sfumato.mechanisms.release"]  # the package's `release` is the function

# ---------------------------------------------------------------- clipping


def clip_skipped(patch: Any) -> None:
    for rule in ("flat", "automatic"):
        patch.setattr(clip_rules, rule, lambda *_: torch.ones_like)
    unchecked(patch)


def unchecked(patch: Any) -> None:
    """Take away the mechanisms' own look at their factors: the guarantee checks have to see it without."""
    for room in (example, group, group_parts):
        patch.setattr(room, "check_factors", lambda *_: None)


def clipped_at_twice_the_norm_that_is_noised(patch: Any) -> None:
    real = clip_rules.flat
    patch.setattr(clip_rules, "flat", lambda clip_norm: real(2 * clip_norm))
    unchecked(patch)


def micro_batch_clipped_as_one(patch: Any) -> None:
    """Clips the micro-batch's sum, noises for one example (TF-Privacy's micro-batches, Naive-DP)."""
    clip_skipped(patch)
    real = Sums.add

    def add(self: Sums, grads: dict[str, torch.Tensor]) -> None:
        norm = torch.stack([g.double().square().sum() for g in grads.values()]).sum().sqrt()
        scale = float(torch.clamp(CLIP_NORM / norm, max=1.0)) if float(norm) else 1.0
        real(self, {name: g * scale for name, g in grads.items()})

    patch.setattr(Sums, "add", add)


def rows_of_a_record_are_clipped_one_by_one(patch: Any) -> None:
    """Every row gets the full clip norm, as if it were a record of its own."""

    def views(self: Shares, step: int, record: int, views: int, group: int) -> list[RowRequest]:
        return [self._request(step, record, view, views * group + view) for view in range(views)]

    patch.setattr(Shares, "_views", views)


def a_bad_example_skips_the_step(patch: Any) -> None:
    real = mechanisms.clip_batch

    def clip_all(*args: Any, **options: Any) -> Any:
        clipped, tally = real(*args, **options)
        if tally.num_nonfinite:
            for total in clipped.sums.values():
                total.zero_()
        return clipped, tally

    patch.setattr(mechanisms, "clip_batch", clip_all)


def padding_counts(patch: Any) -> None:
    real = Assemble.__call__

    def call(self: Assemble, outcomes: Any) -> Any:
        made = real(self, outcomes)
        return (
            made
            if made.batch is None
            else replace(made, made=made.made + made.made[:1] * (self.micro_batch_size - len(made.made)))
        )

    patch.setattr(Assemble, "__call__", call)


def an_unreadable_row_is_replaced_by_the_next(patch: Any) -> None:
    real = Rows.__getitem__

    def getitem(self: Rows, request: RowRequest) -> Any:
        found = real(self, request)
        while isinstance(found[1], Failed):
            request = RowRequest(request.row + 1, request.key)
            found = real(self, request)
        return found

    patch.setattr(Rows, "__getitem__", getitem)


# ---------------------------------------------------------------- drawing


@dataclass(frozen=True)
class _Shares:
    """Shares whose rows come from `rows_of(shares, step)`."""

    rows_of: Callable[[Any, int], list[int]]

    def install(self, patch: Any) -> None:
        rows_of = self.rows_of

        def iterate(self: Any) -> Iterator[list[RowRequest]]:
            for step in range(self.first_step, self.plan.steps):
                rows, size = rows_of(self, step), self.micro_batch_size
                for start in range(0, len(rows), size):
                    yield [RowRequest(int(row), bytes(32)) for row in rows[start : start + size]]
                yield []

        patch.setattr(Shares, "__iter__", iterate)


def _draw(shares: Any, step: int, *name: Any) -> np.ndarray:
    return shares.plan.sampler.draw(shares.keys.key("draw", step, *name), shares.num_records)


def every_rank_draws_for_itself(patch: Any) -> None:
    def rows_of(shares: Any, step: int) -> list[int]:
        world = shares.world
        return _draw(shares, step, world.rank)[world.rank :: world.size].tolist()

    _Shares(rows_of).install(patch)


def all_ranks_take_the_same(patch: Any) -> None:
    _Shares(lambda shares, step: _draw(shares, step).tolist()).install(patch)


def rows_are_drawn_and_owners_deduplicated(patch: Any) -> None:
    def rows_of(shares: Any, step: int) -> list[int]:
        prob = shares.plan.sampling_prob
        drawn = np.random.default_rng(step)
        return [int(rows[0]) for rows in shares.owners if (drawn.random(len(rows)) < prob).any()]

    _Shares(rows_of).install(patch)


def an_owner_gives_all_rows(patch: Any) -> None:
    def rows_of(shares: Any, step: int) -> list[int]:
        return [int(row) for record in _draw(shares, step) for row in shares.owners[record]]

    _Shares(rows_of).install(patch)


def batches_are_shuffled(patch: Any) -> None:
    """Every record once per epoch, in batches of one size: nearly everyone's "Poisson"."""
    state: dict[str, Any] = {"left": np.empty(0, np.int64), "rng": np.random.default_rng(0)}

    def draw(self: Poisson, key: bytes, num_records: int) -> np.ndarray:
        size = round(self.prob * num_records)
        if len(state["left"]) < size:
            state["left"] = state["rng"].permutation(num_records)
        taken, state["left"] = state["left"][:size], state["left"][size:]
        return np.sort(taken)

    patch.setattr(Poisson, "draw", draw)


def empty_draws_are_skipped(patch: Any) -> None:
    real = loader_module.Loader.__iter__

    def iterate(self: Any) -> Any:
        for step, batches in real(self):
            if any(True for _ in batches):
                yield step, batches
            else:
                self.run.step += 1

    patch.setattr(loader_module.Loader, "__iter__", iterate)


# ---------------------------------------------------------------- noise


def divided_by_the_realised_size(patch: Any) -> None:
    clip, release, rows = mechanisms.clip_batch, mechanisms.release, []

    def clip_all(*args: Any, **options: Any) -> Any:
        clipped, tally = clip(*args, **options)
        rows.append(tally.num_rows - tally.num_failed)
        return clipped, tally

    patch.setattr(mechanisms, "clip_batch", clip_all)
    patch.setattr(mechanisms, "release", lambda c, plan, key: release(c, _Divided(plan, max(rows[-1], 1)), key))


@dataclass(frozen=True)
class _Divided:
    plan: Any
    divisor: float

    def __getattr__(self, name: str) -> Any:
        return getattr(self.plan, name)


def noise_after_division(patch: Any) -> None:
    def noised(total: torch.Tensor, std: float, divisor: float, key: bytes) -> torch.Tensor:
        return total / divisor + std * torch.from_numpy(seeds.normals(key, total.numel())).view(total.shape)

    patch.setattr(release_module, "_noised", noised)


def one_key_for_all_parameters(patch: Any) -> None:
    real = release_module._noised
    first: dict[bytes, bytes] = {}
    release = mechanisms.release

    def remember(clipped: Any, plan: Any, key: bytes) -> Any:
        first["key"] = key
        return release(clipped, plan, key)

    patch.setattr(mechanisms, "release", remember)
    patch.setattr(release_module, "_noised", lambda total, std, divisor, key: real(total, std, divisor, first["key"]))


def _key_forgets(patch: Any, *parts: str) -> None:
    def key(self: Keys, stream: str, step: int, *name: Any) -> bytes:
        noise = stream == "noise"
        return seeds.derive(
            self.seed,
            "" if "fingerprint" in parts else self.fingerprint,
            0 if "attempt" in parts else self.attempt,
            stream,
            0 if "step" in parts and noise else step,
            *(() if "sum" in parts and noise else name),
        )

    patch.setattr(Keys, "key", key)


def key_forgets_the_step(patch: Any) -> None:
    _key_forgets(patch, "step")


def key_forgets_the_fingerprint(patch: Any) -> None:
    _key_forgets(patch, "fingerprint")


def key_forgets_the_sum(patch: Any) -> None:
    _key_forgets(patch, "sum")


def key_forgets_attempt_and_sum(patch: Any) -> None:
    _key_forgets(patch, "attempt", "sum")


def every_rank_draws_its_own_noise(patch: Any) -> None:
    real = mechanisms.release

    def release(clipped: Any, plan: Any, key: bytes) -> Any:
        return real(clipped, plan, seeds.derive(key, threading.current_thread().name))

    patch.setattr(mechanisms, "release", release)


# ---------------------------------------------------------------- ledger and logs


def a_replay_is_known_by_its_number_alone(patch: Any) -> None:
    def judge(ledger: Any, attempt: int, step: int, weights: str, clipped_sum: str) -> Verdict:
        return Verdict.REPLAY if (attempt, step) in ledger.history.steps else Verdict.CHARGE

    patch.setattr(attempts, "judge", judge)


def charged_after_it_left(patch: Any) -> None:
    settle, release, waiting = book.Book.settle, mechanisms.release, []

    def late(self: Any, keys: Any, **entry: Any) -> Verdict:
        waiting.append((self, keys, entry))
        return Verdict.CHARGE

    def released(*args: Any) -> Any:
        found = release(*args)
        own, keys, entry = waiting.pop()
        settle(own, keys, **entry)
        return found

    patch.setattr(book.Book, "settle", late)
    patch.setattr(mechanisms, "release", released)


def the_loss_is_in_the_progress(patch: Any) -> None:
    def public_line(path: Any, *, step: int, epsilon: float | None) -> None:
        log.append_line(path, {"step": step, "epsilon": epsilon, "loss": 0.7})

    patch.setattr(loop.log, "public_line", public_line)
