"""The commands for nodes on this machine: `potluck join | forget | leave` and `potluck node pause | resume`."""

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
from potluck.commands.models import keep_limit
from potluck.commands.running import log_to_console, run
from potluck.commands.terminal import Url, say
from potluck.errors import PotluckError
from potluck.types import Span

if TYPE_CHECKING:
    from potluck.node.config import NodeConfig
    from potluck.node.room import Room

_PAUSE: signal.Signals | None = getattr(signal, "SIGUSR1", None)
_RESUME: signal.Signals | None = getattr(signal, "SIGUSR2", None)
"""Windows has neither signal."""

Name = Annotated[str | None, typer.Argument(metavar="[NAME]", help="One node's name. Default: all your nodes.")]

SPAN_HELP = "Layers, as 12 or 12-15. Default: those needed most."
MEMORY_HELP = "The memory it may use, as 6G. Default: what is free now."
GPU_HELP = "The memory of graphics cards it may use. Default: what is free now."
NO_GPU_HELP = "Use no graphics card."
THREADS_HELP = "The most threads. Default: one a core."
MODEL_HELP = "A copy of the model here, to download nothing."
NAME_HELP = "The node's name for others. Default: the host name."
UPLOAD_HELP = "The most to send on average. Default: no limit."
HOURS_HELP = "The hours when it may work, as 22-07. Default: all."
IDLE_HELP = "Work only while no other program needs this machine."
CACHE_HELP = "The most that layers may take on disk, as 50G."
DRY_HELP = "Show what the node would do, without joining."


def join(
    url: Url,
    span: Annotated[str | None, typer.Argument(metavar="[SPAN]", help=SPAN_HELP)] = None,
    memory: Annotated[str | None, typer.Option(metavar="BYTES", help=MEMORY_HELP)] = None,
    gpu_memory: Annotated[str | None, typer.Option(metavar="BYTES", help=GPU_HELP)] = None,
    no_gpu: Annotated[bool, typer.Option("--no-gpu", help=NO_GPU_HELP)] = False,
    threads: Annotated[int | None, typer.Option(metavar="N", help=THREADS_HELP, min=1, max=1024)] = None,
    model: Annotated[Path | None, typer.Option(metavar="PATH", help=MODEL_HELP)] = None,
    name: Annotated[str | None, typer.Option(metavar="NAME", help=NAME_HELP)] = None,
    upload: Annotated[float | None, typer.Option(metavar="MBIT/S", help=UPLOAD_HELP, min=0.1)] = None,
    hours: Annotated[str | None, typer.Option(metavar="HOURS", help=HOURS_HELP)] = None,
    idle_only: Annotated[bool, typer.Option("--idle-only", help=IDLE_HELP)] = False,
    cache_limit: Annotated[str | None, typer.Option(metavar="BYTES", help=CACHE_HELP)] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help=DRY_HELP)] = False,
) -> None:
    """Run a node, which serves a few layers of the coordinator's model."""
    from potluck.node.config import NodeConfig
    from potluck.node.hardware import physical_cores
    from potluck.node.inquiry import inquire
    from potluck.node.permit import Hours
    from potluck.wire.identity import Identity, node_key, tighten_data

    log_to_console()
    tighten_data()
    url, invite = split_invite(url)
    name = name or socket.gethostname()
    config = NodeConfig(
        url=url,
        name=name,
        span=Span.parse(span) if span is not None else None,
        model=model,
        room=_room(memory, "0" if no_gpu else gpu_memory),
        threads=threads or physical_cores(),
        identity=Identity.load(node_key(name)),
        invite=invite,
        upload=upload * 1e6 / 8 if upload is not None else None,
        hours=Hours.parse(hours) if hours is not None else None,
        idle_only=idle_only,
    )
    if cache_limit is not None and not dry_run:
        keep_limit(cache_limit)
    _warn_of_plain_text(url)
    if dry_run:
        with ConsoleReporter() as reporter:
            run(lambda: inquire(config, reporter))
        return
    _serve(config)


def _room(memory: str | None, gpu_memory: str | None) -> Room:
    """The room of a node whose owner gave these amounts of memory, or None."""
    from potluck.engine.library_report import Library, read_library
    from potluck.node.cards import room
    from potluck.node.hardware import free_memory
    from potluck.planning.inventory import parse_memory

    asked = parse_memory(gpu_memory) if gpu_memory is not None else None
    library = read_library() if asked != 0 else None
    gpus = library.gpus if isinstance(library, Library) else ()  # a broken library is told of when it is to run
    return room(parse_memory(memory) if memory is not None else free_memory(), gpus, asked)


def _warn_of_plain_text(url: str) -> None:
    from potluck.wire.origin import is_loopback

    if url.startswith("http://") and not is_loopback(url):
        say(f"The connection to {url} is not encrypted: anyone on the path can read it, and could change it.")


def _serve(config: NodeConfig) -> None:
    from potluck.node.agent import Agent

    with ConsoleReporter() as reporter:
        agent = Agent(config, reporter)
        run(agent.run, agent.leave, _handlers(agent.pause, agent.resume))
    say("Stopped.")


def forget(url: Url) -> None:
    """Accept another key from the coordinator at this URL next time."""
    from potluck.node.pins import Pins, pins_path
    from potluck.wire.origin import origin

    url, _ = split_invite(url)
    if not Pins(pins_path()).forget(origin(url)):
        raise PotluckError(f"This machine does not know a coordinator at {origin(url)}.")
    say(f"This machine has forgotten the key of the coordinator at {origin(url)}.")


def pause(name: Name = None) -> None:
    """Pause the nodes on this machine for now."""
    _tell(name, _PAUSE, "pauses")


def resume(name: Name = None) -> None:
    """Let the paused nodes on this machine continue."""
    _tell(name, _RESUME, "continues")


def leave(name: Name = None) -> None:
    """Let the nodes on this machine leave cleanly, as Ctrl-C does."""
    _tell(name, signal.SIGINT, "leaves")


def _handlers(pause: Callable[[], None], resume: Callable[[], None]) -> dict[signal.Signals, Callable[[], None]]:
    """The actions of a node at the signals that these commands send."""
    both = ((_PAUSE, pause), (_RESUME, resume))
    return {sign: act for sign, act in both if sign is not None}


def _tell(name: str | None, sign: signal.Signals | None, word: str) -> None:
    from potluck.node.neighbours import local_nodes  # this import is slow

    if sign is None:
        raise PotluckError("Nodes cannot be paused on this system: use potluck leave instead.")
    told = {pid: known for pid, known in local_nodes().items() if name in (None, known)}
    if not told:
        raise PotluckError("None of your nodes runs here." if name is None else f"No node named {name!r} runs here.")
    for pid, known in told.items():
        os.kill(pid, sign)
        say(f"{known} {word}.")
