"""`potluck fleet`: the NATS server of a fleet, and its key."""

from __future__ import annotations

import re
import socket
from pathlib import Path

import pytest

from kit.nats_servers import program
from kit.processes import complaint, free_port, potluck
from kit.waiting import eventually
from potluck.local import Process
from potluck.platform import is_seen_by_others

pytestmark = pytest.mark.skipif(program() is None, reason="There is no nats-server here")


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_server_opens_with_its_token_only(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POTLUCK_DATA", str(tmp_path))
    port = free_port()
    with Process(["fleet", "--host", "127.0.0.1", "--port", str(port)]) as server:
        line = server.wait_for("--fleet nats://")
        [url] = re.findall(r"nats://\S+", line)
        assert url.endswith(f"@127.0.0.1:{port}")
        eventually(lambda: listens(port))
        assert (tmp_path / "fleet.key").exists()
        for secret in ("fleet.key", "fleet/token", "fleet/nats.conf"):
            assert not is_seen_by_others(tmp_path / secret)
        assert url.partition("@")[0].removeprefix("nats://") not in str(server.popen.args)
        database = "postgresql://127.0.0.1:1/none"
        wrong = f"nats://wrong@127.0.0.1:{port}"
        told = complaint("serve", tiny, "--port", 0, "--database", database, "--fleet", wrong)
        assert "The database" in told or "refuses" in told
        other = potluck("fleet", "--host", "127.0.0.1", "--port", port)
        assert other.returncode == 1
        assert "has ended with status" in other.stderr
        assert server.stop() == 0
    assert not listens(port)


def test_key_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POTLUCK_DATA", str(tmp_path))
    first, again = potluck("fleet", "--key-only"), potluck("fleet", "--key-only")
    assert first.returncode == 0
    assert first.stdout == again.stdout
    assert str(tmp_path / "fleet.key") in first.stdout
