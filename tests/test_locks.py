"""The locks have hashes for what constraints.txt pins, and for nothing else."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from kit.document_names import ROOT

UNLOCKED = {"torch", "llama-cpp-python"}
"""Those whose files have no hash: the Makefile says why."""


def pins(text: str) -> Iterator[tuple[str, str, list[str]]]:
    """The name, the version and the hashes of each."""
    for entry in re.split(r"\n(?=[^\s#])", text):
        if found := re.match(r"([\w.-]+)==([^\s;]+)", entry):
            name = re.sub(r"[-_.]+", "-", found[1]).lower()
            yield name, found[2], re.findall(r"--hash=(\S+)", entry)


CONSTRAINTS = {name: version for name, version, _ in pins((ROOT / "constraints.txt").read_text("utf-8"))}


@pytest.mark.parametrize("lock", ["demo", "test"])
def test_a_lock_has_the_pinned_versions_and_their_hashes(lock: str) -> None:
    locked = list(pins((ROOT / "locks" / f"{lock}.txt").read_text("utf-8")))
    assert {name: version for name, version, _ in locked}.items() <= CONSTRAINTS.items()
    assert len(locked) == len({name for name, *_ in locked})
    for name, _, hashes in locked:
        assert hashes, name
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", each) for each in hashes)


def test_everything_that_is_pinned_is_locked() -> None:
    locked = {name for name, *_ in pins((ROOT / "locks" / "test.txt").read_text("utf-8"))}
    assert CONSTRAINTS.keys() - locked == UNLOCKED


def test_the_demo_installs_nothing_that_the_tests_do_not() -> None:
    demo, test = ([*pins((ROOT / "locks" / f"{lock}.txt").read_text("utf-8"))] for lock in ("demo", "test"))
    assert [pin for pin in demo if pin not in test] == []
