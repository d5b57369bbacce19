"""`potluck doctor` shows what this machine has, and what is wrong with it or on the way to a coordinator."""

from __future__ import annotations

from typing import Annotated

import msgspec
import typer
from rich.table import Table
from rich.text import Text

from potluck.commands.findings import Finding, Ok, Wrong, findings
from potluck.commands.readings import Readings, read
from potluck.commands.terminal import URL_HELP, AsJson, Key, console, say, say_json, waiting

_STYLES = {"ok": "green", "note": "yellow", "wrong": "bold red"}

MaybeUrl = Annotated[str | None, typer.Argument(metavar="URL", help=URL_HELP)]


def doctor(url: MaybeUrl = None, as_json: AsJson = False, key: Key = "") -> None:
    """Show what this machine has, and what is wrong with it.

    The exit status is 1 if something is wrong.
    """
    with waiting("Looking at this machine"):
        readings = read(url, key)
        found = findings(readings)
    if as_json:
        say_json(report(readings, found))
    else:
        console.print(_screen(found))
        say(_summary(found, asked=url is not None))
    if _wrong(found):
        raise typer.Exit(1)


def report(readings: Readings, found: list[Finding]) -> dict[str, object]:
    """The report for bugs: the findings, and everything that they follow from."""
    told: dict[str, object] = msgspec.to_builtins({"findings": found, "readings": readings}, order="deterministic")
    return told


def _screen(found: list[Finding]) -> Table:
    """The screen: a line for each finding; longer ones continue below their beginning."""
    table = Table(box=None, show_header=False, pad_edge=False)
    for each in found:
        level = each.__struct_config__.tag
        says = each.says if isinstance(each, Ok) else f"{each.says}\n{each.advice}"
        table.add_row(Text(str(level), _STYLES[str(level)]), each.subject, says)
    return table


def _summary(found: list[Finding], *, asked: bool) -> str:
    wrong = len(_wrong(found))
    verdict = "Nothing is wrong." if not wrong else f"{wrong} {'thing is' if wrong == 1 else 'things are'} wrong."
    return verdict if asked else f"{verdict} To check the connection to a coordinator as well: potluck doctor URL"


def _wrong(found: list[Finding]) -> list[Wrong]:
    return [each for each in found if isinstance(each, Wrong)]
