"""What the tests of the members share."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from potluck.coordinator.members.door import StoreDoor
from potluck.coordinator.members.store import Store

ANNA = b"a" * 32


@pytest.fixture
def known(store: Store, clock: Callable[[], float]) -> Store:
    """A store that knows the node with the key of 32 `a`."""
    StoreDoor(store, None, clock).admit(ANNA, "anna", "")
    return store
