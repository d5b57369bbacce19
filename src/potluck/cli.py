"""The command line: `potluck` with all of its commands."""

from __future__ import annotations

import os
import sys
from io import TextIOWrapper
from typing import Annotated, NoReturn

import typer
from rich.console import Console

from potluck import __version__
from potluck.commands import chat, convert, doctor, fleet, join, models, owner, plan, serve, service, status, trace
from potluck.commands.terminal import OneScreen, console, say
from potluck.errors import PotluckError

_INTERRUPTED = 130
"""The status with which typer ends at Ctrl-C."""

app = typer.Typer(
    cls=OneScreen,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Run a large language model together: each computer hosts a few of its layers.",
)
app.add_typer(owner.invites, name="invite")
app.add_typer(owner.keys, name="key")
app.add_typer(owner.nodes, name="node")
app.add_typer(models.models, name="models")
app.add_typer(service.services, name="service")


def _tell_version(asked: bool) -> None:
    if asked:
        say(__version__)
        raise typer.Exit


@app.callback()
def _options(
    _: Annotated[
        bool, typer.Option("--version", callback=_tell_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """The options that stand before a command."""


for node_command in (join.pause, join.resume, join.leave):
    owner.nodes.command()(node_command)


def main() -> None:
    """Run the command line. An expected error, or a file that cannot be used, prints a sentence on stderr and exits
    with status 1, Ctrl-C with 0.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # a pipe on Windows knows few letters, and models use them all
            stream.reconfigure(errors="replace")
    try:
        ended = app(standalone_mode=False)
        if ended == _INTERRUPTED:
            console.file.flush()
            os._exit(0)  # after Ctrl-C inside an import, Python would still end with the signal's own status
        sys.exit(ended)
    except typer.exceptions.TyperException as error:  # the command line is wrong
        _fail(str(getattr(error, "format_message", error.__str__)()), 2)
    except PotluckError as error:
        _fail(str(error), 1)
    except OSError as error:
        if error.filename is None:
            raise
        _fail(f"{error.filename} cannot be used: {error.strerror}.", 1)  # a folder is full, another user's, or none


def _fail(sentence: str, status: int) -> NoReturn:
    text = sentence if sentence.startswith("Usage: ") else f"potluck: {sentence}"  # a bare command prints its help
    Console(stderr=True, highlight=False, soft_wrap=True, markup=False).print(text)
    sys.exit(status)


for command in (
    serve.serve,
    fleet.fleet,
    join.join,
    join.leave,
    join.forget,
    plan.plan,
    convert.convert,
    status.status,
    trace.trace,
    chat.chat,
    chat.demo,
    owner.account,
    doctor.doctor,
):
    app.command()(command)
