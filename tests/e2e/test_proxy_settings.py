"""Commands on a machine whose settings name a proxy."""

from __future__ import annotations

import os
from typing import Any

import pytest

from kit.processes import potluck
from potluck.local import LocalSwarm, Process

COORDINATOR = "http://192.0.2.1:8470"
COMMANDS = {
    "status": ["status", COORDINATOR],
    "chat": ["chat", COORDINATOR],
    "account": ["account", COORDINATOR],
    "trace": ["trace", COORDINATOR, os.devnull],
    "invite": ["invite", "create", COORDINATOR],
    "join": ["join", COORDINATOR],
    "a dry run": ["join", COORDINATOR, "--dry-run"],
    "plan": ["plan", "owner/model", "8G"],
    "pull": ["models", "pull", "owner/model"],
    "serve": ["serve", "owner/model", "--port", "0", "--local"],
}
SOCKS = "names a SOCKS proxy, for which a package is missing: run pip install 'potluck[socks]', or unset it."
NONE = "is not the URL of a proxy: correct or unset it."


def complaint_with(proxy: str, *command: str) -> str:
    """The one sentence with which a command ends where all_proxy is this."""
    done = potluck(*command, env={**os.environ, "all_proxy": proxy})
    assert done.returncode == 1, done.stdout + done.stderr
    [line] = done.stderr.strip().splitlines()
    return line.removeprefix("potluck: ")


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_a_socks_proxy_without_its_package_is_told(command: list[str]) -> None:
    assert complaint_with("socks5://127.0.0.1:1", *command).endswith(f"all_proxy {SOCKS}")


@pytest.mark.parametrize("command", ["status", "a dry run", "plan"])
def test_what_is_no_proxy_is_told_without_its_password(command: str) -> None:
    told = complaint_with("ftp://anna:secret@127.0.0.1:1", *COMMANDS[command])
    assert told.endswith(f"all_proxy {NONE}")


def test_a_proxy_that_is_away_is_named() -> None:
    told = complaint_with("http://127.0.0.1:1", "status", COORDINATOR)
    assert told.startswith(f"No coordinator can be reached at {COORDINATOR} through the proxy of all_proxy: ")
    told = complaint_with("http://127.0.0.1:1", "join", COORDINATOR, "--dry-run")
    assert told.startswith(f"There is no connection to {COORDINATOR} through the proxy of all_proxy (")


def test_the_doctor_tells_it_as_a_finding() -> None:
    done = potluck("doctor", COORDINATOR, env={**os.environ, "all_proxy": "socks5://127.0.0.1:1"})
    told = " ".join(done.stdout.split())
    assert f"No coordinator can be reached at {COORDINATOR}: all_proxy names a SOCKS proxy" in told
    assert "Traceback" not in done.stdout + done.stderr


@pytest.mark.parametrize("proxy", ["http://127.0.0.1:1", "socks5://127.0.0.1:1", "ftp://x"])
def test_this_machine_is_reached_without_its_proxy(tiny_swarm: LocalSwarm, proxy: str) -> None:
    settings: dict[str, Any] = {**dict.fromkeys(("http_proxy", "https_proxy", "all_proxy"), proxy), "no_proxy": ""}
    done = potluck("status", tiny_swarm.url, env={**os.environ, **settings})
    assert done.returncode == 0, done.stderr
    with Process(["join", tiny_swarm.url, "0", "--name", "behind", "--on-battery"], **settings) as node:
        node.wait_for("Serving layers 0 of")
        assert node.stop() == 0
