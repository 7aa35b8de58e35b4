"""All randomness of a run: a secret seed, a key derivation, and streams that are read off a key.

Every key is KDF(seed, path), the path naming fingerprint, attempt, stream, step and name, so that nothing about the
random state has to be saved: a step's draws and noise are functions of where the step stands. The stream of a key is
the output of SHAKE-128, a cryptographic pseudo-random function, because the proof of differential privacy speaks of
noise that the adversary cannot predict; numpy's own generators (PCG64, Philox) are not built for that.
"""

import hashlib
import os

import numpy as np

from sfumato.base.errors import BadInput

SEED_BYTES = 32
_BLOCK_WORDS = 1 << 20  # 8 MiB of stream at a time: constant memory for any number of parameters


def secret_seed() -> bytes:
    """Return `SEED_BYTES` fresh bytes from the operating system's secure generator."""
    return os.urandom(SEED_BYTES)


def derive(seed: bytes, *path: str | int | bytes) -> bytes:
    """Return the 32-byte key at `path` below `seed` (keyed BLAKE2b over a prefix-free encoding of the path).

    >>> derive(bytes(32), "noise", 1, "a") == derive(bytes(32), "noise", 1, "a")
    True
    >>> derive(bytes(32), "ab", "c") == derive(bytes(32), "a", "bc")
    False
    """
    if len(seed) != SEED_BYTES:
        raise BadInput(f"a seed has {SEED_BYTES} bytes, got {len(seed)}.")
    digest = hashlib.blake2b(key=seed, digest_size=32)
    for part in path:
        kind, raw = _encode(part)
        digest.update(kind + len(raw).to_bytes(8, "big") + raw)
    return digest.digest()


def _encode(part: str | int | bytes) -> tuple[bytes, bytes]:
    if isinstance(part, str):
        return b"s", part.encode()
    if isinstance(part, bytes):
        return b"b", part
    return b"i", int(part).to_bytes(16, "big", signed=True)


def words(key: bytes, count: int) -> np.ndarray:
    """Return the first `count` 64-bit words of the key's stream, shape (count,), dtype uint64."""
    out = np.empty(count, np.uint64)
    for block, start in enumerate(range(0, count, _BLOCK_WORDS)):
        size = min(_BLOCK_WORDS, count - start)
        stream = hashlib.shake_128(key + block.to_bytes(8, "big")).digest(8 * size)
        out[start : start + size] = np.frombuffer(stream, np.uint64)
    return out


def uniforms(key: bytes, count: int) -> np.ndarray:
    """Return `count` uniform float64 numbers in the open interval (0, 1): odd multiples of 2^-53, each exact.

    >>> uniforms(derive(bytes(32), "u"), 3).round(3).tolist()
    [0.346, 0.404, 0.14]
    """
    return ((words(key, count) >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52


def normals(key: bytes, count: int) -> np.ndarray:
    """Return `count` standard normal float64 numbers (Box-Muller on the key's stream), shape (count,).

    Box-Muller has no rejections, so the numbers are a function of the key and the count alone.
    """
    out = np.empty(count + count % 2, np.float64)
    for block, start in enumerate(range(0, len(out), _BLOCK_WORDS)):
        size = min(_BLOCK_WORDS, len(out) - start)
        pair = uniforms(derive(key, "normals", block), size).reshape(2, -1)
        radius = np.sqrt(-2.0 * np.log(pair[0]))
        angle = 2.0 * np.pi * pair[1]
        half = size // 2
        out[start : start + half] = radius * np.cos(angle)
        out[start + half : start + size] = radius * np.sin(angle)
    return out[:count]


def integers(key: bytes, count: int, high: int) -> np.ndarray:
    """Return `count` integers uniform on 0..high-1, shape (count,), dtype int64.

    A 64-bit word modulo `high`: each probability is within 2^-64 of 1/high, far below what float64 noise resolves.
    """
    if high < 1:
        raise BadInput(f"high must be >= 1, got {high}.")
    return (words(key, count) % np.uint64(high)).astype(np.int64)


def generator(key: bytes) -> np.random.Generator:
    """Return a numpy generator for what no proof leans on (augmentation, initial weights, synthetic data)."""
    return np.random.Generator(np.random.Philox(int.from_bytes(key[:16], "big")))
