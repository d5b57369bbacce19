"""`potluck trace` writes a timeline that shows where a request spends its time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from potluck.client import Client
from potluck.commands.terminal import Key, ServedModel, Url, client_of, say
from potluck.errors import PotluckError


def trace(
    url: Url,
    out: Annotated[Path, typer.Argument(metavar="OUT.json", help="The timeline to write.")],
    prompt: Annotated[
        str | None, typer.Option(metavar="TEXT", help="A text to send and trace. Default: recent steps.")
    ] = None,
    tokens: Annotated[int, typer.Option(metavar="N", help="The tokens to generate after it.", min=1)] = 32,
    model: ServedModel = None,
    key: Key = "",
) -> None:
    """Write a timeline that shows where a request spends its time."""
    swarm = client_of(url, key)
    model = model or swarm.model
    timeline = swarm.trace(model=model) if prompt is None else _traced(swarm, model, prompt, tokens)
    if not timeline["traceEvents"]:
        raise PotluckError("The swarm has not computed anything yet: ask it something, for example with --prompt.")
    try:
        out.write_text(json.dumps(timeline), encoding="utf-8")
    except OSError as error:
        raise PotluckError(f"Cannot write {out}: {error.strerror or error}.") from error
    say(timeline["summary"])
    say(f"Open {out} at https://ui.perfetto.dev or chrome://tracing.")


def _traced(swarm: Client, model: str, prompt: str, tokens: int) -> dict[str, Any]:
    """The timeline of this request. It also contains what others ask in the meantime."""
    before = swarm.trace(model=model, session=0)["count"]  # session numbers start at 1, so this timeline is empty
    swarm.complete(model, prompt, tokens)
    return swarm.trace(model=model, after=before)
