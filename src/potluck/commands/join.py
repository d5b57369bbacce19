"""The commands for nodes on this machine: `potluck join | forget | leave` and `potluck node pause | resume`."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from potluck.client import split_invite
from potluck.commands import joining
from potluck.commands.autostart import start_at_login, words_of
from potluck.commands.bars import ConsoleReporter
from potluck.commands.guessing import check_only_guesses, guess
from potluck.commands.local_models import is_path
from potluck.commands.models import keep_limit
from potluck.commands.running import log_to_console, run
from potluck.commands.terminal import Url, say
from potluck.errors import PotluckError
from potluck.types import Span

if TYPE_CHECKING:
    from potluck.node.config import NodeConfig
    from potluck.node.room import Room

Name = Annotated[str | None, typer.Argument(metavar="[NAME]", help="One node's name. Default: all your nodes.")]

WHERE_HELP = "Such as http://192.168.1.5:8470. Default: you are asked."
SPAN_HELP = "Layers, as 12 or 12-15. Default: those needed most."
MEMORY_HELP = "The memory it may use, as 6G. Default: what is free now."
GPU_HELP = "The memory of graphics cards it may use. Default: what is free now."
NO_GPU_HELP = "Use no graphics card."
THREADS_HELP = "The most threads. Default: one a core."
MODEL_HELP = "A copy of the model here, or one by its name."
NAME_HELP = "The node's name for others. Default: the host name."
UPLOAD_HELP = "The most to send on average. Default: no limit."
HOURS_HELP = "The hours when it may work, as 22-07. Default: all."
IDLE_HELP = "Work only while no other program needs this machine."
BATTERY_HELP = "Work on battery, too. Default: only on mains power."
CACHE_HELP = "The most that layers may take on disk, as 50G."
DRY_HELP = "Show what the node would do, without joining."


def join(
    ctx: typer.Context,
    url: Annotated[str | None, typer.Argument(metavar="URL", help=WHERE_HELP)] = None,
    span: Annotated[str | None, typer.Argument(metavar="[SPAN]", help=SPAN_HELP)] = None,
    memory: Annotated[str | None, typer.Option(metavar="BYTES", help=MEMORY_HELP)] = None,
    gpu_memory: Annotated[str | None, typer.Option(metavar="BYTES", help=GPU_HELP)] = None,
    no_gpu: Annotated[bool, typer.Option("--no-gpu", help=NO_GPU_HELP)] = False,
    threads: Annotated[int | None, typer.Option(metavar="N", help=THREADS_HELP, min=1, max=1024)] = None,
    model: Annotated[str | None, typer.Option(metavar="MODEL", help=MODEL_HELP)] = None,
    name: Annotated[str | None, typer.Option(metavar="NAME", help=NAME_HELP)] = None,
    upload: Annotated[float | None, typer.Option(metavar="MBIT/S", help=UPLOAD_HELP, min=0.1)] = None,
    hours: Annotated[str | None, typer.Option(metavar="HOURS", help=HOURS_HELP)] = None,
    idle_only: Annotated[bool, typer.Option("--idle-only", help=IDLE_HELP)] = False,
    on_battery: Annotated[
        bool, typer.Option("--on-battery", envvar="POTLUCK_ON_BATTERY", show_envvar=False, help=BATTERY_HELP)
    ] = False,
    cache_limit: Annotated[str | None, typer.Option(metavar="BYTES", help=CACHE_HELP)] = None,
    guesser: Annotated[str | None, typer.Option(metavar="MODEL", hidden=True)] = None,
    any_model: Annotated[bool, typer.Option("--any", hidden=True)] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help=DRY_HELP)] = False,
) -> None:
    """Run a node, which serves a few layers of the coordinator's model."""
    from potluck.wire.identity import tighten_data

    log_to_console()
    tighten_data()
    asked = url is None
    url = joining.where_to_join() if url is None else url
    config = config_of(
        url,
        span,
        memory,
        gpu_memory,
        no_gpu,
        threads,
        model,
        name,
        upload,
        hours,
        idle_only,
        on_battery,
        guesser,
        any_model,
    )
    if cache_limit is not None and not dry_run:
        keep_limit(cache_limit)
    _warn_of_plain_text(config.url)
    if guesser is not None:
        guess(config, tries=dry_run)
    elif dry_run:
        _try(config)
    elif not asked or (joining.agrees(config) and not _starts_at_login(url, config.name, span, words_of(ctx))):
        _serve(config)


def _starts_at_login(url: str, name: str, span: str | None, words: list[str]) -> bool:
    """Whether the system starts this node from now on, because its owner wants it."""
    return joining.wants_login() and start_at_login(url, name, span, words)


def config_of(
    url: str,
    span: str | None,
    memory: str | None,
    gpu_memory: str | None,
    no_gpu: bool,
    threads: int | None,
    model: str | None,
    name: str | None,
    upload: float | None,
    hours: str | None,
    idle_only: bool,
    on_battery: bool,
    guesser: str | None,
    any_model: bool,
) -> NodeConfig:
    """The choices that these options of join make. Raises PotluckError when one of them is wrong."""
    from potluck.node.config import NodeConfig
    from potluck.node.hardware import physical_cores
    from potluck.node.kept_invite import kept_invite
    from potluck.node.permit import Hours
    from potluck.wire.identity import Identity, node_key

    if guesser is not None:
        given: dict[str, object] = {"a SPAN": span, "--memory": memory, "--gpu-memory": gpu_memory, "--no-gpu": no_gpu}
        given |= {"--model PATH": model is not None and is_path(model), "--upload": upload, "--idle-only": idle_only}
        check_only_guesses([option for option, value in given.items() if value])
    if any_model and (span is not None or model is not None or guesser is not None):
        raise PotluckError(
            "--any leaves it to the coordinator what the node does: leave out SPAN, --model and --guesser."
        )
    url, invite = split_invite(url)
    name = name or socket.gethostname()
    return NodeConfig(
        url=url,
        name=name,
        span=Span.parse(span) if span is not None else None,
        model=Path(model) if model is not None and is_path(model) else None,
        serves=model if model is not None and not is_path(model) else "",
        room=_room(memory, "0" if no_gpu or guesser is not None else gpu_memory),  # it guesses without a card
        threads=threads or physical_cores(),
        identity=Identity.load(node_key(name)),
        invite=invite or kept_invite(name, url),
        upload=upload * 1e6 / 8 if upload is not None else None,
        hours=Hours.parse(hours) if hours is not None else None,
        idle_only=idle_only,
        on_battery=on_battery,
        guesser=guesser or "",
        any=any_model,
    )


def _try(config: NodeConfig) -> None:
    from potluck.node.inquiry import inquire

    async def ask() -> None:
        await inquire(config, reporter)
        reporter.say("This was a dry run: nothing was downloaded, and the swarm is unchanged.")

    with ConsoleReporter() as reporter:
        run(ask)


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
        run(agent.run, agent.leave)
    say("Stopped.")


def forget(url: Url) -> None:
    """Accept another key from the coordinator at this URL next time."""
    from potluck.node.kept_fleet import drop_fleet
    from potluck.node.pins import Pins, pins_path
    from potluck.wire.origin import origin

    url, _ = split_invite(url)
    if not Pins(pins_path()).forget(origin(url)):
        raise PotluckError(f"This machine does not know a coordinator at {origin(url)}.")
    drop_fleet(url)  # whoever has the other key answers for nobody else
    say(f"This machine has forgotten the key of the coordinator at {origin(url)}.")


def pause(name: Name = None) -> None:
    """Pause the nodes on this machine for now."""
    _tell(name, "pause", "pauses")


def resume(name: Name = None) -> None:
    """Let the paused nodes on this machine continue."""
    _tell(name, "resume", "continues")


def leave(name: Name = None) -> None:
    """Let the nodes on this machine leave cleanly, as Ctrl-C does."""
    _tell(name, "leave", "leaves")


def _tell(name: str | None, order: str, word: str) -> None:
    from potluck.node.neighbours import local_nodes  # this import is slow
    from potluck.node.orders import Order, give

    told = {pid: known for pid, known in local_nodes().items() if name in (None, known)}
    if not told:
        raise PotluckError("None of your nodes runs here." if name is None else f"No node named {name!r} runs here.")
    for pid, known in told.items():
        give(Order(order), pid)
        say(f"{known} {word}.")
