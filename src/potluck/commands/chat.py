"""`potluck chat` talks to the model, and `potluck demo` does so with a swarm of its own."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from potluck import __version__
from potluck.client import Client, Json
from potluck.commands.bars import Bar, checking
from potluck.commands.terminal import Key, ServedModel, Url, client_of, console, hint, say, write
from potluck.errors import PotluckError, SpanError

_WAITING = "Waiting for the first word"

DEMO_PROMPT = "What is a potluck dinner? Answer in two sentences."


def chat(url: Url, model: ServedModel = None, key: Key = "") -> None:
    """Talk to the model."""
    swarm = client_of(url, key)
    model = model or swarm.model
    say(f"Talking to {model}. Enter an empty line or press Ctrl-D to stop.")
    try:
        _converse(swarm, model, [])
    except KeyboardInterrupt:
        say("")  # the terminal has written ^C


def _converse(swarm: Client, model: str, messages: list[dict[str, Any]]) -> None:
    """Read questions until the input ends. At a terminal, report a request that fails and continue."""
    while question := _ask():
        messages.append({"role": "user", "content": question})
        try:
            messages.append({"role": "assistant", "content": _stream_answer(swarm, model, messages)})
        except PotluckError as error:
            if not sys.stdin.isatty():
                raise
            messages.pop()
            say(f"({error})")


def _ask() -> str:
    try:
        return input("> " if sys.stdin.isatty() else "").strip()
    except EOFError:
        return ""


def _stream_answer(swarm: Client, model: str, messages: list[dict[str, Any]]) -> str:
    """Print the answer as it comes, and return all of it. A terminal is also told how good the guesses were."""
    usages: list[Json] = []
    with Bar() as bar:  # a long question takes a while to be read
        bar.show(_WAITING, None)
        answer = swarm.stream_chat(model, messages, lambda read, total: _show_reading(bar, read / total), usages.append)
        first = next(answer, "")
    parts, part = [], first
    try:
        while part:
            parts.append(part)
            write(part)
            with hint("Waiting for the nodes"):
                part = next(answer, "")
    except PotluckError:
        say("")  # the error's message begins on a new line
        raise
    say("")
    guesses = [usage["guesses"] for usage in usages if "guesses" in usage]
    if guesses and console.is_terminal:
        say(f"({_guessed(**guesses[-1])})")
    return "".join(parts)


def _guessed(right: int, wrong: int, void: int) -> str:
    """The sentence about the guesses of an answer, of which there is at least one."""
    total = right + wrong + void
    return f"{100 * right / total:.0f} % of {total} {'guess was' if total == 1 else 'guesses were'} right."


def _show_reading(bar: Bar, fraction: float) -> None:
    if fraction < 1:
        bar.show("Reading the question", fraction)
    else:
        bar.show(_WAITING, None)


def demo(
    model: Annotated[Path | None, typer.Argument(metavar="[MODEL]", help="A model. Default: SmolLM2-135M.")] = None,
    prompt: Annotated[str, typer.Option(metavar="TEXT", help="The first question.")] = DEMO_PROMPT,
    nodes: Annotated[int, typer.Option(metavar="N", help="The number of nodes to start.", min=1)] = 3,
) -> None:
    """Run a whole swarm on this machine and ask it questions."""
    from potluck.coordinator.model_choice import usual_footprint
    from potluck.local import LocalSwarm, demo_model
    from potluck.models.sources import open_model, weights_size

    path = model or demo_model(say)
    say(f"Potluck {__version__}: {path.name} on {nodes} nodes of this machine.")
    with checking(weights_size(path)) as advance:
        manifest = open_model(path, advance)
    sizes = usual_footprint(manifest)
    if nodes > (most := len(sizes.cuts.points) - 1):
        raise SpanError(f"The model has {manifest.layers} layers: at most {most} nodes can share them.")
    local = LocalSwarm(path, sizes.share(nodes), serve=["--local"], on_line=lambda line: say(f"  {line}"))
    try:
        with local:
            swarm, info = Client(local.url), local.wait_covered()
            say(f"\n> {prompt}")
            messages = [{"role": "user", "content": prompt}]
            messages.append({"role": "assistant", "content": _stream_answer(swarm, info["model"], messages)})
            if sys.stdin.isatty() and sys.stdout.isatty():
                say("\nIt is your turn. Enter an empty line or press Ctrl-D to stop.")
                _converse(swarm, info["model"], messages)
    finally:
        say("The swarm has stopped.")
