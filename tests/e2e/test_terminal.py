"""What a terminal shows, and what programs read."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
from collections import Counter
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
import typer.main
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Mount, Route
from typer.testing import CliRunner

from kit.processes import LOCAL, ONE_THREAD, complaint, potluck, python
from kit.runner import run
from kit.scripted import Script, Scripted
from kit.terminal import Terminal
from kit.waiting import eventually
from kit.webserver import serving
from potluck import __version__
from potluck.cli import app
from potluck.coordinator.generation.guesses import Guessed
from potluck.coordinator.generation.job import Delta
from potluck.coordinator.swarm.tally import Outcome, Source
from potluck.local import HANG_S, LocalSwarm


def test_the_status_is_watched_until_ctrl_c(tiny):
    with LocalSwarm(tiny, [], serve=LOCAL) as swarm, Terminal("status", swarm.url, "--watch").open() as terminal:
        eventually(lambda: terminal.shows("No node serves layers 0-5."))
        swarm.add_node("0-5", "--name", "newcomer", *ONE_THREAD)
        eventually(lambda: terminal.shows("newcomer") and terminal.shows("Every layer is covered."))
        assert swarm.coordinator.stop() == 0
        eventually(lambda: terminal.shows("No coordinator can be reached"))
        terminal.process.send_signal(signal.SIGINT)
        assert terminal.process.wait(HANG_S) == 0
        assert not terminal.shows("Traceback")


def test_a_talk_tells_how_far_the_question_is_read(tiny_swarm):
    with Terminal("chat", tiny_swarm.url).open() as terminal:
        eventually(lambda: terminal.shows("> "))
        terminal.type("hello " * 300 + "\n")
        eventually(lambda: terminal.shows("Waiting for the first word"))
        eventually(lambda: terminal.shows("Reading the question"))
        terminal.process.send_signal(signal.SIGINT)
        assert terminal.process.wait(HANG_S) == 0
        assert not terminal.shows("Traceback")


@pytest.mark.parametrize("guesses", [{(Source.REPEAT, Outcome.RIGHT): 5, (Source.MODEL, Outcome.VOID): 2}, {}])
def test_a_talk_tells_how_good_the_guesses_were(guesses):
    """At a terminal; a program that reads the answer gets nothing else."""
    script: Script = [Delta("Hi.", finish="stop", guessed=Guessed(Counter(guesses)))]
    status = Route("/status", lambda _: JSONResponse({"model": "tiny", "served": []}))

    def talk(url):
        with Terminal("chat", url).open() as terminal:
            eventually(lambda: terminal.shows("> "))
            terminal.type("Hello\n")
            eventually(lambda: terminal.shows("(71 % of 7 guesses were right.)" if guesses else "Hi."))
            terminal.type("\n")
            assert terminal.process.wait(HANG_S) == 0
            assert terminal.shows("guess") == bool(guesses)
        assert potluck("chat", url, stdin="Hello\n").stdout.endswith("\nHi.\n")

    async def test():
        async with serving(Starlette(routes=[status, Mount("/", Scripted(script, script).app)])) as served:
            await asyncio.to_thread(talk, f"http://127.0.0.1:{served.port}")

    run(test())


def test_a_talk_tells_that_it_waits_for_the_nodes(smol):
    frozen = smol.nodes[1].popen
    with Terminal("chat", smol.url).open() as terminal:
        eventually(lambda: terminal.shows("> "))
        before = smol.status()["tokens"]
        terminal.type("Write a long story about a dog.\n")
        eventually(lambda: smol.status()["tokens"] > before + 5)
        frozen.send_signal(signal.SIGSTOP)
        try:
            eventually(lambda: terminal.shows("\x1b7 (Waiting for the nodes)"))
        finally:
            frozen.send_signal(signal.SIGCONT)
        eventually(lambda: terminal.shows("\x1b8\x1b[J"))
        terminal.process.send_signal(signal.SIGINT)
        assert terminal.process.wait(HANG_S) == 0
        assert not terminal.shows("Traceback")


REPORT = """
import sys
from potluck.commands.bars import ConsoleReporter
with ConsoleReporter() as reporter:
    for line in sys.stdin:
        what, fraction = line.split()
        reporter.progress(what, float(fraction))
"""


def shows_bar(terminal: Terminal, phase: str) -> bool:
    return terminal.shows(f"{phase} \x1b") and terminal.shows(" 40%")


def test_a_node_shows_each_phase_as_a_bar():
    with Terminal("-c", REPORT, program=[sys.executable]).open() as terminal:
        for phase in ("Fetching", "Loading"):
            terminal.type(f"{phase} 0.4\n")
            eventually(partial(shows_bar, terminal, phase))


@pytest.mark.parametrize(
    "command", [("join", "{}", *ONE_THREAD), ("join", "{}", "--dry-run"), ("status", "{}")], ids=str
)
def test_who_waits_for_a_coordinator_is_told(command: tuple[str, ...]):
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        url = f"http://127.0.0.1:{deaf.getsockname()[1]}"
        with Terminal(*(word.format(url) for word in command)).open() as terminal:
            eventually(lambda: terminal.shows(f"Waiting for {url}"))
            terminal.process.send_signal(signal.SIGINT)
            assert terminal.process.wait(HANG_S) == 0
            assert not terminal.shows("Traceback")


def test_only_a_terminal_is_watched(tiny_swarm):
    for options in ([], ["--json"]):
        assert complaint("status", tiny_swarm.url, "--watch", *options) == (
            "--watch needs a terminal: programs can ask repeatedly with --json."
        )


def read(*command: object) -> dict:
    told = potluck(*command, "--json")
    assert told.returncode == 0, told.stderr
    return json.loads(told.stdout)


def test_what_programs_read(tiny_swarm, tiny):
    assert read("status", tiny_swarm.url)["served"] == [1] * 6
    told = read("plan", tiny, "300M@40", "8M", "--context", "64")
    assert [(one["name"], one["span"]) for one in told["machines"]] == [("1: 300M@40", "0-5")]
    assert told["one_stream"] > 0
    assert told["many_streams"] >= told["one_stream"]
    assert (told["bottleneck"], told["missing"]) == ("1: 300M@40", [])
    assert told["limit"].startswith("Layers 0-5 on 1: 300M@40 take 100 % of a token's time")
    assert read("account", tiny_swarm.url)["account"] == "owner"
    alone = read("plan", tiny, "8M", "--context", "64")
    assert (alone["machines"], alone["missing"], alone["bottleneck"]) == ([], ["0-5"], None)


GROUPS = [(), ("node",), ("key",), ("invite",), ("models",), ("service",)]


@pytest.mark.parametrize("group", GROUPS, ids=str)
def test_where_nothing_is_asked_there_is_the_help(group: tuple[str, ...]):
    told, bare = potluck(*group, "--help"), potluck(*group)
    assert told.returncode == 0
    assert (bare.returncode, bare.stdout, bare.stderr.strip()) == (2, "", told.stdout.strip())


def commands(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    yield path
    for name, part in getattr(command, "commands", {}).items():
        yield from commands(part, (*path, name))


@pytest.mark.parametrize("path", list(commands(typer.main.get_command(app))), ids=" ".join)
def test_every_help_fits_on_one_screen(path: tuple[str, ...]):
    told = CliRunner().invoke(app, [*path, "--help"], env={"COLUMNS": "80"}, prog_name="potluck")
    assert told.exit_code == 0
    lines = told.output.splitlines()
    assert len(lines) <= 23  # one is left for the prompt
    assert max(map(len, lines)) <= 80
    assert not any(line.endswith("...") for line in lines if not line.startswith("Usage: "))


def test_the_version_is_told():
    told = potluck("--version")
    assert (told.returncode, told.stdout) == (0, f"{__version__}\n")


def test_the_shell_completes_commands_and_options(monkeypatch: pytest.MonkeyPatch):
    def complete(words: str, word: int) -> list[str]:
        asked = {**os.environ, "_POTLUCK_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(word)}
        return python(
            "-c", "import sys; sys.argv[0] = 'potluck'; from potluck.cli import main; main()", env=asked
        ).split()

    assert complete("potluck st", 1) == ["status"]
    assert complete("potluck node pa", 2) == ["pause"]
    assert complete("potluck join URL --id", 3) == ["--idle-only"]
