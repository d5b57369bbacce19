"""The parts that the commands share: the console, common options, and a client of the coordinator."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Annotated, Any
from urllib.parse import urlsplit

import psutil
import typer
from rich.console import Console
from typer.core import TyperGroup

from potluck.client import Client
from potluck.network import checked_url
from potluck.types import EngineKind, Quantize
from potluck.wire.origin import is_loopback

console = Console(highlight=False, soft_wrap=True, markup=False)

QUIET_S = 1.0
"""Work that ends sooner needs no bar."""

_SAVE_CURSOR, _RESTORE_CURSOR = "\x1b7", "\x1b8\x1b[J"

SERVED_HELP = "One of several models. Default: the first."
URL_HELP = "The coordinator, such as http://192.168.1.5:8470."
MODEL_HELP = "A GGUF file, a Hugging Face directory, or a name on its hub."
REVISION_HELP = "The branch, tag or commit on the hub. Default: main."
QUANTIZE_HELP = "The weights' type: q8_0, q4_0, f16, bf16, int8, int4."
KEY_HELP = "Your API key. Default: this machine's owner key."

Url = Annotated[str, typer.Argument(metavar="URL", help=URL_HELP)]
ServedModel = Annotated[str | None, typer.Option("--model", metavar="NAME", help=SERVED_HELP)]
Key = Annotated[str, typer.Option("--key", metavar="KEY", envvar="POTLUCK_KEY", show_default=False, help=KEY_HELP)]
Model = Annotated[str, typer.Argument(metavar="MODEL", help=MODEL_HELP)]
Revision = Annotated[str | None, typer.Option(metavar="NAME", help=REVISION_HELP)]
Engine = Annotated[
    EngineKind | None, typer.Option(metavar="NAME", help="llamacpp or transformers. Default: the first that works.")
]
QuantizeTo = Annotated[Quantize | None, typer.Option(metavar="TYPE", help=QUANTIZE_HELP)]
Context = Annotated[
    int | None, typer.Option(metavar="N", help="The most tokens of a session, by default 4096.", min=16)
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object, for programs.")]


class OneScreen(TyperGroup):
    """A group whose help is one line for each command and nothing else."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        self.format_commands(ctx, formatter)


def say(text: str) -> None:
    console.print(text)


def say_json(value: object) -> None:
    console.print(json.dumps(value, indent=2))


@contextmanager
def waiting(what: str) -> Iterator[None]:
    """Show a spinner once the block has taken a second."""
    spinner = console.status(f"{what}.")
    try:
        with _after_a_second(spinner.start):
            yield
    finally:
        spinner.stop()


@contextmanager
def hint(what: str) -> Iterator[None]:
    """Show a hint within a line once the block has taken a second; the line then continues where it was."""
    shown = []

    def show() -> None:
        shown.append(what)
        write(f"{_SAVE_CURSOR} ({what})")

    try:
        with _after_a_second(show if console.is_terminal else lambda: None):
            yield
    finally:
        if shown:
            write(_RESTORE_CURSOR)


@contextmanager
def _after_a_second(call: Callable[[], None]) -> Iterator[None]:
    """Call this on another thread after a second, unless the block has ended by then."""
    timer = threading.Timer(QUIET_S, call)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()


def write(text: str) -> None:
    """Print a part of a line at once and unchanged."""
    console.file.write(text)
    console.file.flush()


def client_of(url: str, key: str) -> Client:
    """A client of the coordinator at this URL. Raises PotluckError when the text is not a URL."""
    url = checked_url(url)
    return Client(url, key or _own_key(url), partial(waiting, f"Waiting for {url}"))


def _own_key(url: str) -> str:
    """The owner's key, or "". It is sent only to this machine, because no other coordinator's owner must learn it."""
    if not (is_loopback(url) or _is_own_address(urlsplit(url).hostname or "")):
        return ""
    from potluck.wire.identity import admin_key  # this import is slow and seldom needed

    try:
        return admin_key().read_text("utf-8").strip()
    except OSError:  # nobody, or another user, has started the coordinator of a private swarm here
        return ""


def _is_own_address(host: str) -> bool:
    return any(host == each.address for addresses in psutil.net_if_addrs().values() for each in addresses)
