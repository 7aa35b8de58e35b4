"""Every model is certified once for all tests of this room: they look at what comes afterwards."""

from collections.abc import Iterator

import pytest
from tests.once import certified_once


@pytest.fixture(autouse=True, scope="module")
def certified() -> Iterator[None]:
    with certified_once(__name__, any_weights=True):
        yield
