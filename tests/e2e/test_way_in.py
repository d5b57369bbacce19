"""The way of a desktop's user into a swarm: a list, questions, and a node that starts at login."""

from __future__ import annotations

import re
import shlex
import signal
import sys

import pytest

from kit.owned_swarm import Swarm
from kit.processes import ONE_THREAD, PRIVATE
from kit.terminal import Terminal
from kit.waiting import eventually
from potluck.local import HANG_S, Process

NETWORK = """
import sys
from potluck.cli import main
from potluck.node import browsing
from potluck.wire.beacon import Beacon

async def browse():
    return [Beacon("127.0.0.1", port, "", "tiny", "0.1.0", private=True, secure=False)]

port = int(sys.argv.pop())
browsing.browse = browse
main()
"""
"""The command line on a network where the coordinator at this port announces itself."""


def asked(swarm: Swarm, *options: str, **environ: str) -> Terminal:
    """`potluck join` without a URL."""
    program = [sys.executable, "-c", NETWORK]
    return Terminal("join", *options, *ONE_THREAD, swarm.url.rpartition(":")[2], program=program, **environ)


def answer(terminal: Terminal, question: str, text: str) -> None:
    eventually(lambda: terminal.shows(question))
    terminal.type(f"{text}\n")


def test_who_is_asked_joins_with_a_number_and_an_invite(start, tmp_path):
    swarm = start(*PRIVATE)
    with asked(swarm, "--name", "anna", POTLUCK_DATA=str(tmp_path / "anna")).open() as terminal:
        eventually(lambda: terminal.shows(f" 1  tiny at {swarm.url}, private"))
        answer(terminal, "Its number, or the URL with the invite: ", "1")
        answer(terminal, "This swarm is private. Its invite", swarm.invite().partition("#")[2])
        answer(terminal, "Join now? [y/N] ", "y")
        for sentence in ("Without this node, the swarm lacks layers 0-5", "at most one thread", "Its layers stay on"):
            assert terminal.shows(sentence)
        assert not terminal.shows("dry run")
        assert swarm.nodes() == []
        answer(terminal, "Start it whenever you log in, too? [y/N] ", "")
        eventually(lambda: swarm.nodes() == ["anna"])
        terminal.process.send_signal(signal.SIGINT)
        assert terminal.process.wait(HANG_S) == 0
        assert not terminal.shows("Traceback")


@pytest.mark.parametrize("says", ["", "n", None])
def test_who_does_not_say_yes_has_not_joined(start, says):
    swarm = start(*PRIVATE)
    with asked(swarm).open() as terminal:
        answer(terminal, "the invite: ", swarm.invite())
        if says is None:
            eventually(lambda: terminal.shows("Join now? "))
            terminal.process.send_signal(signal.SIGINT)
        else:
            answer(terminal, "Join now? ", says)
        assert terminal.process.wait(HANG_S) == 0
        assert not terminal.shows("Traceback")
    assert '"nodes": []' in swarm.run("node", "list", swarm.url, "--json")


@pytest.mark.skipif(sys.platform != "linux", reason="The recorder is in place of a program of Linux.")
def test_a_node_that_starts_at_login_joins_without_the_invite_in_its_words(start, tmp_path):
    swarm, home = start(*PRIVATE), tmp_path / "a home"
    systemctl = home / "bin" / "systemctl"
    systemctl.parent.mkdir(parents=True)
    systemctl.write_text("#!/bin/sh\n")
    systemctl.chmod(0o755)
    data = home / "data"
    environ = {"HOME": str(home), "XDG_CONFIG_HOME": "", "POTLUCK_DATA": str(data), "PATH": str(systemctl.parent)}
    invite = swarm.invite("--uses", 1)
    with asked(swarm, "--name", "anna", **environ).open() as terminal:
        answer(terminal, "the invite: ", invite)
        answer(terminal, "Join now? ", "y")
        answer(terminal, "Start it whenever you log in, too? ", "y")
        assert terminal.process.wait(HANG_S) == 0
        assert terminal.shows("The node anna starts now, and whenever you log in")
    [unit] = home.rglob("*.service")
    text = unit.read_text("utf-8")
    assert f'"POTLUCK_DATA={data}"' in text
    assert invite.partition("#")[2] not in text
    [words] = (shlex.split(line.partition("=")[2]) for line in text.splitlines() if line.startswith("ExecStart="))
    [kept] = (data / "nodes").glob("*.invite")
    with Process(words[words.index("join") :], POTLUCK_DATA=str(data)) as node:
        node.wait_for("Serving layers 0-5 ")
        assert swarm.nodes() == ["anna"]
        assert not kept.exists()
    assert re.search(r"^anna |\banna\b", swarm.run("node", "list", swarm.url))
