"""Lets the system start a node at login, and stops that again: it writes the file, and runs the system's programs."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import typer

from potluck.client import split_invite
from potluck.commands.local_models import is_path
from potluck.commands.login import Call, Service, service_of
from potluck.commands.terminal import say
from potluck.errors import PotluckError
from potluck.platform import system

Run = Callable[[Sequence[str]], str | None]
"""Runs a program, and returns the reason why it failed, or None."""

_PATIENCE_S = 120.0
"""A node that runs already may take 45 s to leave."""

_SET_ONCE = ("name", "cache_limit", "dry_run")
"""Options of join that are not repeated at each login: the name is always given, and the limit of the cache is kept."""

_MODELS = ("model", "guesser")
"""Options of join that take a path or a name."""


def words_of(context: typer.Context) -> list[str]:
    """The options of join that were given to this command, as words, with full paths."""
    words = []
    for param in context.command.params:
        value = context.params.get(param.name or "")
        if param.param_type_name == "argument" or param.name in _SET_ONCE or value == param.default:
            continue
        match value:
            case bool():
                words.append(param.opts[0] if value else param.secondary_opts[0])
            case str() if param.name in _MODELS and is_path(value):
                words.append(f"{param.opts[0]}={Path(value).absolute()}")
            case _:
                words.append(f"{param.opts[0]}={value}")
    return words


def start_at_login(url: str, name: str, span: str | None, words: Sequence[str], run: Run | None = None) -> bool:
    """Start the node now and at each login. Returns whether it runs now; where it does not, its owner is told.

    url: the coordinator's, with the invite if there is one, which is kept in a file of its own: other users can see the
    words of a command. words: options of join.
    Raises PotluckError when the file cannot be written.
    """
    from potluck.node.kept_invite import keep_invite

    url, invite = split_invite(url)
    command = [sys.executable, "-P", "-m", "potluck", "join", url, *([span] if span else []), f"--name={name}", *words]
    service = _service(name, command)
    if invite:
        keep_invite(name, url, invite)
    _write(service)
    failure = carry_out(service.install, run or run_program)
    if failure:
        left = "; ".join(shlex.join(call.words) for call in service.install if not call.may_fail)
        say(f"{service.path} is written, but the node does not start yet: {failure}. Run this where it works: {left}")
    else:
        say(f"The node {name} starts now, and whenever you log in: {service.path} says so.")
    for sentence in (*service.advice, f"To undo this: potluck service remove --name {shlex.quote(name)}"):
        say(sentence)
    return not failure


def stay_away(name: str, run: Run | None = None) -> None:
    """Stop the node, and do not start it at login any more. Raises PotluckError when it would not be started anyway."""
    from potluck.wire.identity import node_invite

    service = _service(name, [sys.executable])
    if not service.path.exists():
        raise PotluckError(f"No node named {name!r} starts at login: there is no {service.path}.")
    failure = carry_out(service.remove, run or run_program)
    try:
        service.path.unlink()
        node_invite(name).unlink(missing_ok=True)
    except OSError as error:
        raise PotluckError(f"{error.filename} cannot be removed: {error.strerror or error}.") from error
    failure = carry_out(service.removed, run or run_program) or failure
    if failure:
        say(f"The node {name} does not start at login any more, but may run until you log out: {failure}.")
    else:
        say(f"The node {name} has ended, and does not start at login any more.")


def carry_out(calls: Sequence[Call], run: Run) -> str | None:
    """Run these programs in turn. Returns the reason why one failed, after which no other is run, or None."""
    for call in calls:
        if (reason := run(call.words)) is not None and not call.may_fail:
            return reason
    return None


def run_program(words: Sequence[str]) -> str | None:
    """Run a program of the system."""
    program = shutil.which(words[0])
    if program is None:
        return f"There is no {words[0]} here"
    try:
        done = subprocess.run(
            [program, *words[1:]],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_PATIENCE_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{words[0]} failed: {error}"
    lines = (done.stderr or done.stdout).strip().splitlines()
    return f"{words[0]} failed: {lines[-1].rstrip('.') if lines else done.returncode}" if done.returncode else None


def _write(service: Service) -> None:
    from potluck.wire.private import make_folder, write_private

    try:
        make_folder(service.path.parent)
        write_private(service.path, service.text)
    except OSError as error:
        raise PotluckError(f"{service.path} cannot be written: {error.strerror or error}.") from error


def _service(name: str, command: Sequence[str]) -> Service:
    from potluck.wire.identity import data_folder

    return service_of(system(), name, command, Path.home(), data_folder(), os.environ)
