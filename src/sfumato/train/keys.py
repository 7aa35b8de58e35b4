"""Everything random in a run is addressed: KDF(seed, fingerprint, attempt, stream, step, name)."""

import hashlib
import os
from dataclasses import dataclass, field
from pathlib import Path

from sfumato.base import BadInput, seeds
from sfumato.base.ledger import PRIVATE_MODE, sync_folder


@dataclass(frozen=True, kw_only=True)
class Seed:
    """The root of all keys, and whether it is a secret.

    A seed that a user chose is known, so the noise can be subtracted by who knows it: it makes a run reproducible
    for tests, and the card says that the run is not private.
    """

    value: bytes = field(repr=False)
    public: bool

    @property
    def name(self) -> str:
        """A name that tells seeds apart without telling the seed."""
        commitment = hashlib.blake2b(b"sfumato seed", key=self.value, digest_size=8).hexdigest()
        return f"{'public' if self.public else 'secret'} {commitment}"


@dataclass(frozen=True, kw_only=True)
class Keys:
    """The keys of one attempt."""

    seed: bytes = field(repr=False)
    fingerprint: str
    attempt: int

    def key(self, stream: str, step: int, *name: str | int | bytes) -> bytes:
        """Return the key of one stream ("draw", "owner", "augment", "model", "noise") at one step."""
        return seeds.derive(self.seed, self.fingerprint, self.attempt, stream, step, *name)


def public_seed(value: int | bytes) -> Seed:
    """Return the seed that a user's number or bytes stand for."""
    raw = value if isinstance(value, bytes) else str(int(value)).encode()
    return Seed(value=hashlib.blake2b(raw, digest_size=seeds.SEED_BYTES).digest(), public=True)


def secret_seed(path: Path) -> Seed:
    """Return the seed kept in `path`; if there is none, take one from the operating system and keep it (mode 0600).

    Raises:
        BadInput: the file has not the size of a seed.
    """
    if not path.exists():
        _keep(path, seeds.secret_seed())
    value = path.read_bytes()
    if len(value) != seeds.SEED_BYTES:
        raise BadInput(f"{path} is not a seed: {seeds.SEED_BYTES} bytes were expected.")
    return Seed(value=value, public=False)


def _keep(path: Path, value: bytes) -> None:
    """Write under another name first: a seed cut short by a crash would lock the run."""
    draft = path.with_suffix(".draft")
    draft.unlink(missing_ok=True)
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, PRIVATE_MODE)
    with os.fdopen(handle, "wb") as file:
        file.write(value)
        file.flush()
        os.fsync(file.fileno())
    os.replace(draft, path)
    sync_folder(path.parent)
