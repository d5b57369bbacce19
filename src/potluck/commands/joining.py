"""`potluck join` without a URL: it lists the coordinators of this network, and asks before anything begins."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from potluck.client import split_invite
from potluck.commands.bars import ConsoleReporter
from potluck.commands.login import SYSTEMS
from potluck.commands.running import run
from potluck.commands.terminal import say, waiting
from potluck.errors import PotluckError
from potluck.platform import system

if TYPE_CHECKING:
    from potluck.node.config import NodeConfig
    from potluck.wire.beacon import Beacon

Ask = Callable[[str], str]
Result = TypeVar("Result")

_COMMAND = "potluck join "
_LONGEST = 20
"""The most characters of a wrong number that are repeated."""


def ask(question: str) -> str:
    """The answer of the person at the terminal, "" where the input ends."""
    try:
        return input(question).strip()
    except EOFError:
        say("")
        return ""


def where_to_join() -> str:
    """The URL that the owner of this machine chooses, with the invite if there is one."""
    if not sys.stdin.isatty():
        raise PotluckError("Name the coordinator: potluck join URL. Only at a terminal can you be asked for it.")
    found = _found()
    for number, beacon in enumerate(found, 1):
        say(f" {number}  {_line(beacon)}")
    return chosen(found, ask)


def chosen(found: Sequence[Beacon], ask: Ask) -> str:
    """The URL that the answers choose, with the invite if there is one. Raises PotluckError when there is no answer."""
    question = "Its number, or the URL with the invite: " if found else "The coordinator's URL, with the invite: "
    numbered = {str(number): beacon for number, beacon in enumerate(found, 1)}
    while answer := _unwrapped(ask(question)):
        if answer in numbered:
            return _with_invite(numbered[answer], ask)
        if answer.lstrip("-").isdecimal():
            say(f"There is no number {answer[:_LONGEST]} in the list.")
            continue
        try:
            split_invite(answer)
        except PotluckError as error:
            say(str(error))
        else:
            return answer
    raise PotluckError("No coordinator was chosen, so nothing has happened.")


def _with_invite(beacon: Beacon, ask: Ask) -> str:
    if not beacon.private:
        return beacon.url
    answer = _unwrapped(ask("This swarm is private. Its invite, or nothing if this node has joined it before: "))
    if "#" in answer:  # with the URL, by which its owner wants to be reached
        return answer
    return f"{beacon.url}#{answer}" if answer else beacon.url


def _unwrapped(answer: str) -> str:
    """What people copy is often the whole command: potluck join "URL#INVITE"."""
    return answer.removeprefix(_COMMAND).strip().strip("\"'")


def _line(beacon: Beacon) -> str:
    return f"{beacon.model or 'A model without a name'} at {beacon.url}, {'private' if beacon.private else 'open'}"


def _found() -> list[Beacon]:
    from potluck.node.browsing import browse

    try:
        with waiting("Looking for coordinators on this network"):
            found = _outcome(browse)
    except PotluckError as error:
        say(str(error))
        return []
    if not found:
        say("No coordinator announces itself on this network.")
    return found


def agrees(config: NodeConfig, ask: Ask = ask) -> bool:
    """Whether the owner wants to join, who is shown first what the node would give and take."""
    from potluck.models.cache import read_limit
    from potluck.models.sources import cache_folder
    from potluck.node.inquiry import inquire

    with ConsoleReporter() as reporter:
        _outcome(lambda: inquire(config, reporter))
    for sentence in terms(config, str(cache_folder()), read_limit(cache_folder())):
        say(sentence)
    return says_yes("Join now?", ask)


def terms(config: NodeConfig, folder: str, limit: int | None) -> list[str]:
    """What the node takes besides memory. folder, limit: where layers are kept, and the most bytes they may take."""
    threads = "one thread" if config.threads == 1 else f"{config.threads} threads"
    disk = "without a limit (--cache-limit sets one)" if limit is None else f"at most {limit >> 20:,} MiB of all models"
    sent = (
        "It sends as fast as it can (--upload limits that)."
        if config.upload is None
        else f"It sends at most {config.upload * 8 / 1e6:g} Mbit/s on average."
    )
    return [
        f"It computes with at most {threads}, and with fewer while other programs need the cores.",
        f"Its layers stay on disk in {folder}, {disk}.",
        sent,
    ]


def wants_login() -> bool:
    """Whether the owner wants the node to start at each login, where that can be had."""
    return system() in SYSTEMS and says_yes("Start it whenever you log in, too?")


def says_yes(question: str, ask: Ask = ask) -> bool:
    return ask(f"{question} [y/N] ").lower() in ("y", "yes")


def _outcome(main: Callable[[], Coroutine[Any, Any, Result]]) -> Result:
    """What this returns. Ctrl-C ends the command, too."""
    outcomes: list[Result] = []

    async def keep() -> None:
        outcomes.append(await main())

    before = [(sign, signal.getsignal(sign)) for sign in (signal.SIGINT, signal.SIGTERM)]
    try:
        run(keep)
    finally:
        for sign, handler in before:  # uvloop leaves its own behind, which do nothing once the loop is closed
            signal.signal(sign, handler)
    if not outcomes:
        raise KeyboardInterrupt
    return outcomes[0]
