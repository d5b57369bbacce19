"""The commands about the nodes on one's own machine: `potluck join | forget`, `potluck node pause | resume | leave`."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from potluck.client import split_invite
from potluck.commands.bars import ConsoleReporter
from potluck.commands.running import log_to_console, run
from potluck.commands.terminal import Url, say
from potluck.errors import PotluckError
from potluck.types import Span

if TYPE_CHECKING:
    from potluck.node.config import NodeConfig

_PAUSE: signal.Signals | None = getattr(signal, "SIGUSR1", None)
_RESUME: signal.Signals | None = getattr(signal, "SIGUSR2", None)
"""Windows has none."""

Name = Annotated[str | None, typer.Argument(metavar="[NAME]", help="Of one node; default: all of yours.")]


def join(
    url: Url,
    span: Annotated[str | None, typer.Argument(metavar="[SPAN]", help="Layers, as 12 or 12-15, from 0.")] = None,
    memory: Annotated[
        str | None, typer.Option(metavar="BYTES", help="Such as 6G or 800M; default: what is free now.")
    ] = None,
    threads: Annotated[
        int | None, typer.Option(metavar="N", help="Default: the physical cores.", min=1, max=1024)
    ] = None,
    model: Annotated[
        Path | None, typer.Option(metavar="PATH", help="The same model on this machine: nothing is fetched.")
    ] = None,
    name: Annotated[
        str | None, typer.Option(metavar="NAME", help="What others call this node; default: the host name.")
    ] = None,
    upload: Annotated[
        float | None, typer.Option(metavar="MBIT/S", help="To send at most; default: no limit.", min=0.1)
    ] = None,
    hours: Annotated[
        str | None, typer.Option(metavar="HOURS", help="When it may work, such as 22-07; default: always.")
    ] = None,
    idle_only: Annotated[
        bool, typer.Option("--idle-only", help="Work only while no other program needs this machine.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Tell what it would do, and do not join.")] = False,
) -> None:
    """Be a node: serve a few layers of the coordinator's model."""
    from potluck.node.config import NodeConfig
    from potluck.node.hardware import free_memory, physical_cores
    from potluck.node.inquiry import inquire
    from potluck.node.permit import Hours
    from potluck.planning.inventory import parse_memory
    from potluck.wire.identity import Identity, node_key
    from potluck.wire.origin import is_loopback

    log_to_console()
    url, invite = split_invite(url)
    name = name or socket.gethostname()
    config = NodeConfig(
        url=url,
        name=name,
        span=Span.parse(span) if span is not None else None,
        model=model,
        memory=parse_memory(memory) if memory is not None else free_memory(),
        threads=threads or physical_cores(),
        identity=Identity.load(node_key(name)),
        invite=invite,
        upload=upload * 1e6 / 8 if upload is not None else None,
        hours=Hours.parse(hours) if hours is not None else None,
        idle_only=idle_only,
    )
    if url.startswith("http://") and not is_loopback(url):
        say(f"The line to {url} is not encrypted: whoever carries it can read all, and could change it.")
    if dry_run:
        with ConsoleReporter() as reporter:
            run(lambda: inquire(config, reporter))
        return
    _serve(config)


def _serve(config: NodeConfig) -> None:
    from potluck.node.agent import Agent

    with ConsoleReporter() as reporter:
        agent = Agent(config, reporter)
        run(agent.run, agent.leave, _handlers(agent.pause, agent.resume))
    say("Stopped.")


def forget(url: Url) -> None:
    """Let the coordinator at this URL have another key next time."""
    from potluck.node.pins import Pins, pins_path
    from potluck.wire.origin import origin

    url, _ = split_invite(url)
    if not Pins(pins_path()).forget(origin(url)):
        raise PotluckError(f"No coordinator at {origin(url)} is known here.")
    say(f"The coordinator at {origin(url)} is forgotten.")


def pause(name: Name = None) -> None:
    """Let the nodes on this machine compute nothing for now."""
    _tell(name, _PAUSE, "pauses")


def resume(name: Name = None) -> None:
    """Let the nodes on this machine that were paused work again."""
    _tell(name, _RESUME, "goes on")


def leave(name: Name = None) -> None:
    """Let the nodes on this machine leave politely, as Ctrl-C does."""
    _tell(name, signal.SIGINT, "leaves")


def _handlers(pause: Callable[[], None], resume: Callable[[], None]) -> dict[signal.Signals, Callable[[], None]]:
    """What a node does at the signals of these commands."""
    both = ((_PAUSE, pause), (_RESUME, resume))
    return {sign: act for sign, act in both if sign is not None}


def _tell(name: str | None, sign: signal.Signals | None, word: str) -> None:
    from potluck.node.neighbours import local_nodes  # it takes a while

    if sign is None:
        raise PotluckError("On this system nodes cannot be paused: let them leave instead.")
    told = {pid: known for pid, known in local_nodes().items() if name in (None, known)}
    if not told:
        raise PotluckError("No node of yours runs here." if name is None else f"No node named {name!r} runs here.")
    for pid, known in told.items():
        os.kill(pid, sign)
        say(f"{known} {word}.")
