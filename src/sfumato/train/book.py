"""Seed, ledger and attempts of a run, as all its ranks see them: rank 0 decides and writes, the others follow."""

from collections.abc import Mapping
from typing import Any

from sfumato.base import BadInput
from sfumato.base.ledger import BrokenLedger, History, Ledger, read
from sfumato.plan import Plan
from sfumato.plan.spent import explained
from sfumato.train import attempts, checkpoint, fingerprint, standing
from sfumato.train.attempts import Verdict
from sfumato.train.folder import RunFolder
from sfumato.train.keys import Keys, Seed, public_seed, secret_seed
from sfumato.train.world import World


class Book:
    """What a run keeps on the disk about itself.

    Args:
        folder: of the run; rank 0 holds its lock until `close`.
        world: every method here is called by all ranks together, except `history` and `close`.
        plan: what the run charges.
        seed: None for a secret one, or a user's own, which is public.
        accept: whether a new attempt may be opened where steps were charged already.

    Raises:
        BadInput: another process writes this run, the ledger was changed, or the folder holds what it does not know.
    """

    def __init__(self, folder: RunFolder, world: World, *, plan: Plan, seed: int | bytes | None, accept: bool) -> None:
        self.folder, self._world, self._plan, self._accept = folder, world, plan, accept
        self._ledger: Ledger | None = None
        self._fields: Mapping[str, Any] = {}
        opened = world.decide(lambda: self._open(seed))
        self.seed = Seed(value=bytes.fromhex(opened["value"]), public=opened["public"])

    def _open(self, seed: int | bytes | None) -> dict[str, Any]:
        try:
            standing.check_private(self.folder, new_seed=self._accept or seed is not None)
            self.folder.make()
            self._ledger = Ledger(self.folder.ledger)
            own = secret_seed(self.folder.seed) if seed is None else public_seed(seed)
        except BrokenLedger as error:
            raise explained(error) from None
        except BaseException:
            self.close()
            raise
        return {"value": own.value.hex(), "public": own.public}

    @property
    def ledger(self) -> Ledger:
        """The open ledger (rank 0 only)."""
        assert self._ledger is not None, "only rank 0 writes the ledger"
        return self._ledger

    @property
    def history(self) -> History:
        """The ledger as it stands; other ranks than 0 read the file."""
        return self._ledger.history if self._ledger else read(self.folder.ledger)

    def join(self, fields: Mapping[str, Any], *, step: int, looks: Mapping[str, Mapping[str, Any]]) -> Keys:
        """Settle the attempt for these fields, and return its keys. `looks` are recorded beside it."""
        own = {**fields, "seed": self.seed.name}

        def decide() -> tuple[int, str, str]:
            number, keyed = attempts.join(self.ledger, own, self._plan, step=step, accept=self._accept)
            for what, detail in looks.items():
                self.ledger.look(what, **detail)
            return number, keyed, fingerprint.digest(own)

        number, keyed, digest = self._world.decide(decide)
        if fingerprint.digest(own) != digest:
            raise BadInput(f"rank {self._world.rank} was started with other settings than rank 0.")
        self._fields = own
        return Keys(seed=self.seed.value, fingerprint=keyed, attempt=number)

    def settle(self, keys: Keys, *, step: int, weights: str, clipped_sum: str) -> Verdict:
        """Charge a computed step, or find it charged already. On return of CHARGE its entry is on the disk.

        Raises:
            BadInput: it was charged and came out otherwise, and a new attempt was not accepted; or ranks disagree.
        """

        def decide() -> tuple[Verdict, str, str]:
            verdict = attempts.judge(self.ledger, keys.attempt, step, weights, clipped_sum)
            if verdict is Verdict.CHARGE:
                self.ledger.step(attempt=keys.attempt, step=step, weights=weights, clipped_sum=clipped_sum)
            elif verdict is Verdict.CONFLICT and not self._accept:
                attempts.refuse_conflict(self.ledger, self._plan, step=step)
            return verdict, weights, clipped_sum

        verdict, *first = self._world.decide(decide)
        if first != [weights, clipped_sum]:
            raise BadInput(f"rank {self._world.rank} holds other weights or another sum than rank 0 at step {step}.")
        return Verdict(verdict)

    def next_attempt(self, keys: Keys, *, step: int) -> Keys:
        """Open a new attempt under the same fingerprint, and return its keys."""
        number = self._world.decide(lambda: attempts.open_attempt(self.ledger, self._fields, self._plan, step=step))
        return Keys(seed=keys.seed, fingerprint=keys.fingerprint, attempt=number)

    def save(self, state: Mapping[str, Any], *, step: int, keep_last: int) -> None:
        """Write a checkpoint that knows how far the ledger was."""

        def write() -> None:
            hashes = self.history.hashes
            ledger = {"lines": len(hashes), "head": hashes[-1]}
            checkpoint.write(self.folder.checkpoints, step, {**state, "ledger": ledger}, keep_last=keep_last)

        self._world.decide(write)

    def load(self) -> dict[str, Any] | None:
        """Return the latest whole checkpoint (every rank reads it: `out` lies on a file system that all of them see).

        Steps charged after it are computed again and must come out equal, so an earlier one costs time and no privacy.

        Raises:
            BadInput: it was written beside another ledger, lines of this one were removed since, or none is whole.
        """
        name = self._world.decide(lambda: checkpoint.latest(self.folder.checkpoints))
        if name is None:
            return None
        state = checkpoint.read(self.folder.checkpoints / name)
        lines, head = state["ledger"]["lines"], state["ledger"]["head"]
        if self.history.hashes[lines - 1 : lines] != [head]:
            raise BadInput(f"{name} was not written by the run of this ledger: epsilon would not count its steps.")
        return state

    def close(self) -> None:
        """Give the run's lock back."""
        if self._ledger:
            self._ledger.close()
