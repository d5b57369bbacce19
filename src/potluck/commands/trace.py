"""`potluck trace`: where the time of a request goes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from potluck.client import Client
from potluck.commands.terminal import Key, Url, client_of, say
from potluck.errors import PotluckError


def trace(
    url: Url,
    out: Annotated[Path, typer.Argument(metavar="OUT.json", help="The timeline to write.")],
    prompt: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Ask this first, and trace it; default: all lately.")
    ] = None,
    tokens: Annotated[int, typer.Option(metavar="N", help="How many to generate after the prompt.", min=1)] = 32,
    key: Key = "",
) -> None:
    """Where the time of a request goes, as a timeline."""
    swarm = client_of(url, key)
    timeline = swarm.trace() if prompt is None else _traced(swarm, prompt, tokens)
    if not timeline["traceEvents"]:
        raise PotluckError("The swarm has not computed anything yet: ask it something, here with --prompt.")
    try:
        out.write_text(json.dumps(timeline), encoding="utf-8")
    except OSError as error:
        raise PotluckError(f"Cannot write {out}: {error.strerror or error}.") from error
    say(timeline["summary"])
    say(f"Open {out} at https://ui.perfetto.dev or chrome://tracing.")


def _traced(swarm: Client, prompt: str, tokens: int) -> dict[str, Any]:
    """The timeline of this request; what others ask meanwhile is in it as well."""
    model = swarm.status()["model"]
    before = swarm.trace(session=0)["count"]  # they count from 1: an empty timeline is enough here
    swarm.complete(model, prompt, tokens)
    return swarm.trace(after=before)
