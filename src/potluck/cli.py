"""The command line: `potluck` with all of its commands, of which `convert` and `trace` are here."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console

from potluck import __version__, board, contributor, hosting, owner, planner, talk
from potluck.client import Client
from potluck.errors import PotluckError
from potluck.progress import bar, checking
from potluck.terminal import Key, OneScreen, Url, client_of, console, say
from potluck.types import Quantize

_INTERRUPTED = 130
"""What typer makes of Ctrl-C."""

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


def _tell_version(asked: bool) -> None:
    if asked:
        say(__version__)
        raise typer.Exit


@app.callback()
def _options(
    _: Annotated[bool, typer.Option("--version", callback=_tell_version, is_eager=True, help="Which this is.")] = False,
) -> None:
    """What stands before a command."""


for command in (contributor.pause, contributor.resume, contributor.leave):
    owner.nodes.command()(command)


def main() -> None:
    """An expected error is one sentence on stderr and exit status 1. Ctrl-C is an end like any other: status 0."""
    try:
        status = app(standalone_mode=False)
        if status == _INTERRUPTED:
            console.file.flush()
            os._exit(0)  # after Ctrl-C inside an import, Python would still end with the signal's own status
        sys.exit(status)
    except typer.exceptions.TyperException as error:  # a command line that is wrong
        _fail(str(getattr(error, "format_message", error.__str__)()), 2)
    except PotluckError as error:
        _fail(str(error), 1)


def _fail(sentence: str, status: int) -> NoReturn:
    text = sentence if sentence.startswith("Usage: ") else f"potluck: {sentence}"  # the help, where nothing was asked
    Console(stderr=True, highlight=False, soft_wrap=True, markup=False).print(text)
    sys.exit(status)


app.command()(hosting.serve)
app.command()(contributor.join)
app.command()(contributor.leave)
app.command()(contributor.forget)
app.command()(planner.plan)


@app.command()
def convert(
    model: Annotated[Path, typer.Argument(metavar="DIRECTORY", help="A Hugging Face directory.")],
    out: Annotated[Path, typer.Argument(metavar="OUT.gguf", help="The GGUF file to write.")],
    quantize: Annotated[Quantize, typer.Option(metavar="TYPE", help="q8_0, q4_0, f16 or bf16.")] = Quantize.Q8_0,
) -> None:
    """Write a Hugging Face model as one GGUF file, for llama.cpp too."""
    from potluck.models.convert import QUANTIZE
    from potluck.models.modelfile import write_model_file
    from potluck.models.sources import local_source, open_model, weights_size

    if quantize not in QUANTIZE:
        raise PotluckError(f"A GGUF file can be quantized to {', '.join(QUANTIZE)}, not {quantize}.")
    with checking(model) as advance:
        manifest = open_model(model, advance)
    with bar("Converting", weights_size(model)) as advance:
        write_model_file(manifest, out, quantize, local_source(model), advance)
    say(f"{out} holds {manifest.name} in {quantize}, {out.stat().st_size >> 20} MiB.")


app.command()(board.status)


@app.command()
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


app.command()(talk.chat)
app.command()(talk.demo)
app.command()(owner.account)
