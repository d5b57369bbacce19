"""The commands about the nodes on one's own machine: `potluck node pause | resume | leave`."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Annotated

import typer

from potluck.errors import PotluckError
from potluck.terminal import say

_PAUSE: signal.Signals | None = getattr(signal, "SIGUSR1", None)
_RESUME: signal.Signals | None = getattr(signal, "SIGUSR2", None)
"""Windows has none."""

Name = Annotated[str | None, typer.Argument(metavar="[NAME]", help="Of one node; default: all of yours.")]


def pause(name: Name = None) -> None:
    """Let the nodes on this machine compute nothing for now."""
    _tell(name, _PAUSE, "pauses")


def resume(name: Name = None) -> None:
    """Let the nodes on this machine that were paused work again."""
    _tell(name, _RESUME, "goes on")


def leave(name: Name = None) -> None:
    """Let the nodes on this machine leave politely, as Ctrl-C does."""
    _tell(name, signal.SIGINT, "leaves")


def handlers(pause: Callable[[], None], resume: Callable[[], None]) -> dict[signal.Signals, Callable[[], None]]:
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
