"""What holds for every test: no network, one thread, caches of its own, fixed seeds. Imports no torch."""

import logging
import os
import random
import socket
import sys
import tempfile
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest

_CACHE = Path(tempfile.gettempdir()) / f"sfumato-tests-{os.getuid() if hasattr(os, 'getuid') else 'user'}"
_LOCAL_NAMES = {"localhost", "127.0.0.1", "::1", "0.0.0.0", "::", "", None, socket.gethostname()}

# Before the first import of torch, transformers or matplotlib, and inherited by the processes that tests start.
os.environ.update(
    OMP_NUM_THREADS="1",
    MKL_NUM_THREADS="1",
    TOKENIZERS_PARALLELISM="false",
    HF_HUB_OFFLINE="1",
    TRANSFORMERS_OFFLINE="1",
    HF_DATASETS_OFFLINE="1",
    HF_HOME=str(_CACHE / "hf"),
    TORCH_HOME=str(_CACHE / "torch"),
    XDG_CACHE_HOME=str(_CACHE / "xdg"),
    MPLCONFIGDIR=str(_CACHE / "matplotlib"),
    MPLBACKEND="Agg",
)
os.environ.pop("SFUMATO_DEBUG", None)
for _folder in ("hf", "torch", "xdg", "matplotlib"):
    (_CACHE / _folder).mkdir(parents=True, exist_ok=True)


class NetworkForbiddenError(RuntimeError):
    """A test reached for another machine."""


def _is_local(host: object) -> bool:
    text = host.decode() if isinstance(host, bytes) else host
    return text in _LOCAL_NAMES or str(text).startswith("127.")


def _guard_sockets() -> None:
    connect, connect_ex, getaddrinfo = socket.socket.connect, socket.socket.connect_ex, socket.getaddrinfo

    def check(sock: socket.socket, address: object) -> None:
        unix = getattr(socket, "AF_UNIX", None)
        if sock.family != unix and isinstance(address, tuple) and not _is_local(address[0]):
            raise NetworkForbiddenError(f"a test may not connect to {address[0]!r}")

    def guarded_connect(self: socket.socket, address):
        check(self, address)
        return connect(self, address)

    def guarded_connect_ex(self: socket.socket, address):
        check(self, address)
        return connect_ex(self, address)

    def guarded_getaddrinfo(host, *args, **kwargs):
        if not _is_local(host):
            raise NetworkForbiddenError(f"a test may not look up {host!r}")
        return getaddrinfo(host, *args, **kwargs)

    socket.socket.connect = guarded_connect
    socket.socket.connect_ex = guarded_connect_ex
    socket.getaddrinfo = guarded_getaddrinfo


_guard_sockets()


@pytest.fixture(autouse=True)
def fixed_seeds() -> None:
    """Every test starts from the same global generators, whichever tests ran before it on its worker."""
    random.seed(0)
    np.random.seed(0)
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.manual_seed(0)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Of a test that is marked `every(n)`, run every n-th case; with SFUMATO_ZOO=all run all of them."""
    if os.environ.get("SFUMATO_ZOO") == "all":
        return
    seen: dict[tuple, int] = {}
    kept, left_out = [], []
    for item in items:
        mark = item.get_closest_marker("every")
        key = (item.path, getattr(item, "originalname", item.name))
        number = seen[key] = seen.get(key, -1) + 1
        (left_out if mark is not None and number % mark.args[0] else kept).append(item)
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = kept


@pytest.fixture(autouse=True, scope="module")
def certified_once_in_a_room(request: pytest.FixtureRequest):
    """In rooms whose tests look at what comes after certification, equal models are certified once, and (but for a run
    of everything) on a few kinds of rows. Commands that tests start as processes certify in full.
    """
    room = request.path.parent.name
    if room not in ("cli", "mechanisms", "recipes", "smoke", "train"):
        yield
        return
    from tests.once import certified_lightly, certified_once

    light = room != "mechanisms" and os.environ.get("SFUMATO_ZOO") != "all"
    with certified_once(room, any_weights=True), certified_lightly() if light else nullcontext():
        yield


@pytest.fixture(autouse=True)
def nothing_stays_silenced():
    """No test leaves the process without its log."""
    yield
    disabled = logging.root.manager.disable
    logging.disable(logging.NOTSET)
    assert disabled == logging.NOTSET
