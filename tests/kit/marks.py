"""The marks that tests get by the file or the folder in which they lie; `make check` runs the tests that have none."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from kit.groups import EVERY_KERNEL_SET, PYTORCH

MARKS: dict[str, tuple[str, ...]] = {
    "e2e": ("tests/e2e/",),
    "browser": ("tests/e2e/test_web",),
    "torch": (*PYTORCH, "tests/models/test_families.py"),
    "slow": (
        *EVERY_KERNEL_SET,
        "tests/coordinator/text/test_children.py",
        "tests/engine/test_exclusive.py",
        "tests/engine/test_kernels.py",
        "tests/engine/test_real_weights.py",
        "tests/models/test_peer_source.py",
        "tests/node/test_agent_in_fleet.py",
        "tests/planning/test_optimum.py",
        "tests/test_public_api.py",
        "tests/test_apart.py",
        "tests/test_fuzz.py",
        "tests/test_life.py",
    ),
}
"""For each mark the beginnings of the paths of the tests that have it; the parameter of a fixture sets `postgres`."""

MEANINGS = {
    "e2e": "starts real processes: a coordinator, nodes, commands",
    "browser": "drives Chromium",
    "torch": "needs PyTorch",
    "postgres": "starts a PostgreSQL server",
    "slow": "takes many seconds",
}

_ORDER = ("slow", "torch", "e2e")
"""Fast tests come first, and those with processes of their own last."""


def marks_of(path: str) -> list[str]:
    """path: of a test file, relative to the root; a group's name may follow."""
    return [mark for mark, places in MARKS.items() if path.startswith(places)]


def mark_and_sort(items: list[pytest.Item]) -> None:
    for item in items:
        for mark in marks_of(item.nodeid):
            item.add_marker(mark)
    items.sort(key=lambda item: _rank(marks_of(item.nodeid)))


def _rank(marks: Iterable[str]) -> int:
    return max((1 + _ORDER.index(mark) for mark in marks if mark in _ORDER), default=0)
