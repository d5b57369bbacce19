"""The report of a benchmark: tables, one JSON object on the last line, and with --record a file."""

from __future__ import annotations

import json
import shlex
import shutil
import signal
import subprocess
import sys
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

from msgspec import to_builtins

from bench.hardware import read_hardware
from bench.record import Figure, Record, Setting, write_record
from bench.tables import grid, print_table

ROOT = Path(__file__).parents[2]
FIGURES = ROOT / "docs" / "figures"


def _recording() -> ArgumentParser:
    """A parser of the option that all benchmarks have."""
    parser = ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument(
        "--record",
        nargs="?",
        type=Path,
        const=FIGURES,
        metavar="FOLDER",
        help="write the figures to a file in this folder, by default docs/figures",
    )
    return parser


def options_parser(doc: str) -> ArgumentParser:
    """A parser that --record is part of. doc: the benchmark's docstring, which --help shows."""
    return ArgumentParser(description=doc, formatter_class=RawDescriptionHelpFormatter, parents=[_recording()])


class Report:
    """One run of a benchmark. It begins by printing the machine, and SIGTERM ends the run as Ctrl-C does."""

    def __init__(self, name: str, options: Namespace) -> None:
        """Begin. Ends the program if --record is given outside of a git checkout."""
        signal.signal(signal.SIGTERM, lambda *_: sys.exit("Stopped."))
        self._name = name
        self._options = options
        self._commit = checkout_commit() if options.record else ""
        self._hardware = read_hardware()
        self._tables: dict[str, list[Figure]] = {}
        print(f"{self._hardware}; kernels {', '.join(self._hardware.kernels)}; load {self._hardware.load}", flush=True)

    def add(self, tables: Mapping[str, Sequence[Figure]], part: str = "") -> None:
        """Print tables, which are given by the heading of their first column, and record them if --record is given.

        part: the name of a part of the benchmark that has a record of its own.
        """
        for heading, figures in tables.items():
            header, *rows = grid(heading, figures)
            print_table(header, rows)
            self._tables[heading] = list(figures)
        if self._options.record:
            record = self._record("-".join(filter(None, (self._name, part))), tables)
            print(f"Recorded in {write_record(record, self._options.record)}.", flush=True)

    def finish(self, **details: object) -> None:
        """Print the last line: the details, every figure and the machine. Nothing may be printed after it."""
        told = {
            "benchmark": self._name,
            **_rounded(details),
            "tables": to_builtins(self._tables),
            "hardware": to_builtins(self._hardware),
        }
        print(json.dumps(told), flush=True)

    def _record(self, name: str, tables: Mapping[str, Sequence[Figure]]) -> Record:
        return Record(
            name=name,
            command=command(sys.argv),
            date=date.today(),
            commit=self._commit,
            hardware=self._hardware,
            settings=settings(self._options),
            tables={heading: tuple(figures) for heading, figures in tables.items()},
        )


def command(argv: Sequence[str]) -> str:
    """The command that ran, without --record. Paths become names, as in `settings`."""
    _, rest = _recording().parse_known_args(argv[1:])
    named = [Path(one).name if Path(one).is_absolute() else one for one in rest]
    return shlex.join(["python", f"benchmarks/{Path(argv[0]).name}", *named])


def settings(options: Namespace) -> dict[str, Setting | list[Setting]]:
    """All options except --record. Paths become names, because folders differ from machine to machine."""
    values = {name: value for name, value in vars(options).items() if name != "record"}
    return {name: value.name if isinstance(value, Path) else value for name, value in values.items()}


def checkout_commit() -> str:
    """The commit of this checkout, with "-dirty" if the source has been changed. Ends the program without git."""
    git = shutil.which("git")
    asked = [git or "git", "-C", str(ROOT), "describe", "--always", "--dirty", "--exclude=*"]
    told = subprocess.run(asked, capture_output=True, text=True, check=False) if git else None
    if told is None or told.returncode:
        sys.exit("--record notes the commit that was measured, so it needs git and a checkout of the repository.")
    return told.stdout.strip()


def _rounded(value: Any) -> Any:
    """The same with all floats rounded to five digits, however deeply they are nested."""
    match value:
        case float():
            return float(f"{value:.5g}")
        case dict():
            return {name: _rounded(item) for name, item in value.items()}
        case list() | tuple():
            return [_rounded(item) for item in value]
    return value
