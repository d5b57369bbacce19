"""`potluck service install | remove`: a node of this machine that starts whenever its owner logs in."""

from __future__ import annotations

import inspect
import socket
from typing import Annotated, Any

import typer

from potluck.commands.autostart import start_at_login, stay_away, words_of
from potluck.commands.join import NAME_HELP, config_of, join
from potluck.commands.models import keep_limit

services = typer.Typer(no_args_is_help=True, help="Let a node start whenever you log in.")


def install(ctx: typer.Context, url: str, span: str | None, name: str | None, **options: Any) -> None:
    """Start a node now and at each login, with the options of join."""
    cache_limit = options.pop("cache_limit")
    config = config_of(url, span, name=name, **options)  # what is wrong with it is said now, not at the next login
    if cache_limit is not None:
        keep_limit(cache_limit)
    if not start_at_login(url, config.name, span, words_of(ctx)):
        raise typer.Exit(1)


def _parameters() -> list[inspect.Parameter]:
    """What join takes, except that the URL must be given, and that nothing is tried."""
    taken = inspect.signature(join, eval_str=True).parameters
    return [
        each.replace(default=inspect.Parameter.empty) if each.name == "url" else each
        for each in taken.values()
        if each.name != "dry_run"
    ]


install.__signature__ = inspect.Signature(_parameters())  # type: ignore[attr-defined]
services.command()(install)


@services.command()
def remove(name: Annotated[str | None, typer.Option(metavar="NAME", help=NAME_HELP)] = None) -> None:
    """Stop a node, and start it at login no more."""
    stay_away(name or socket.gethostname())
