"""How a private coordinator starts again: what it shows, what it writes, and who can read that."""

from __future__ import annotations

import json
import os
import re
import stat
from pathlib import Path

import pytest

from kit import full_disk as disk
from kit.full_disk import full_disk
from kit.owned_swarm import Swarm
from kit.processes import PRIVATE
from kit.waiting import eventually


def shown(swarm: Swarm) -> str:
    """The invite that the coordinator prints."""
    [text] = re.findall(r'join ".*/#(\S+)"', swarm.coordinator.wait_for("To add a machine"))
    swarm.coordinator.wait_for("This invite expires on ")
    return text


def state(folder: Path) -> dict[str, tuple[bytes, int]]:
    """The content of every file, and when it was written."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


def test_each_start_shows_the_same_invite_and_writes_nothing(start, tmp_path):
    first = start(*PRIVATE)
    text = shown(first)
    assert first.coordinator.stop() == 0
    before = state(tmp_path)
    again = start(*PRIVATE)
    assert shown(again) == text
    assert again.admin_key == first.admin_key
    assert [invite["uses_left"] for invite in json.loads(again.run("invite", "list", again.url, "--json"))["invites"]]
    assert again.coordinator.stop() == 0
    assert state(tmp_path) == before
    third = start(*PRIVATE)
    [invite] = json.loads(third.run("invite", "list", third.url, "--json"))["invites"]
    third.run("invite", "revoke", third.url, invite["id"])
    assert third.coordinator.stop() == 0
    assert shown(start(*PRIVATE)) != text


@pytest.mark.skipif(not disk.POSSIBLE, reason="Windows has no such limits.")
def test_on_a_full_disk_it_starts_and_serves_and_keeps_its_books(start, tmp_path):
    first = start(*PRIVATE)
    text = shown(first)
    with first.join(first.invite("--account", "anna"), "anna") as node:
        node.wait_for("Serving layers 0-5 ")
        key = first.new_key("--account", "ben")
        first.coordinator.stop()
        with full_disk():
            again = start(*PRIVATE, port=int(first.url.rpartition(":")[2]))
        again.coordinator.wait_for("Others need an invite")
        eventually(lambda: again.nodes() == ["anna"])
        asked = {"model": "tiny", "prompt": "hello", "max_tokens": 4}
        assert again.ask("/v1/completions", key, json=asked).status_code == 200
        again.coordinator.wait_for("Credits and audits are not stored yet: The database failed: ")
        assert not any("Traceback" in line for line in again.coordinator.lines)
    assert text not in "".join(again.coordinator.lines)


@pytest.mark.skipif(not disk.POSSIBLE, reason="Windows has no such limits.")
def test_on_a_full_disk_without_a_valid_invite_it_starts_and_says_so(start, tmp_path):
    first = start(*PRIVATE)
    [invite] = json.loads(first.run("invite", "list", first.url, "--json"))["invites"]
    first.run("invite", "revoke", first.url, invite["id"])
    first.coordinator.stop()
    with full_disk():
        again = start(*PRIVATE)
    again.coordinator.wait_for("No invite can be made now, so no new node can join. The database failed: ")
    assert again.ask("/status", again.admin_key).status_code == 200


@pytest.mark.skipif(os.name != "posix", reason="Windows has no such modes.")
def test_what_a_coordinator_and_a_node_write_is_their_owners(start, tmp_path):
    before = os.umask(0o022)
    try:
        swarm = start(*PRIVATE)
        with swarm.join(swarm.invite(), "anna") as node:
            node.wait_for("Serving layers 0-5 ")
            paths = [path for path in tmp_path.rglob("*") if "cache" not in path.parts]
            names = {path.name for path in paths}
            modes = {path: stat.S_IMODE(path.stat().st_mode) for path in paths}
    finally:
        os.umask(before)
    assert {"potluck.db", "potluck.db-wal", "potluck.db-shm", "admin.key", "coordinator.key"} <= names
    assert {"first.invite", "anna.key", "nodes"} <= names
    assert {path: mode for path, mode in modes.items() if mode & 0o077} == {}
