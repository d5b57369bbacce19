"""What a benchmark measured, as the files in docs/figures hold it; `make docs` makes the pages' tables of them."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import msgspec
from msgspec import Meta, Struct, structs

from bench.hardware import Hardware

Unit = Literal["tokens/s", "requests/s", "frames/s", "MB/s", "s", "ms", "ms/s", "GB", "MiB", "%", "ratio", "count"]
DIGITS = 3
"""Figures are rounded to so many before anything is made of them, so that pages show what aims are judged by."""

Setting = str | int | float | bool | None


class Aim(Struct, frozen=True, forbid_unknown_fields=True):
    """What a figure should be, in the figure's unit."""

    rule: Literal["at least", "below"]
    bound: float

    def met(self, value: float) -> bool:
        return value >= self.bound if self.rule == "at least" else value < self.bound


def at_least(bound: float) -> Aim:
    return Aim("at least", bound)


def below(bound: float) -> Aim:
    return Aim("below", bound)


class Figure(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """One quantity of one case: a cell of a table, whose row is the case and whose column is the measure.

    case: what was measured, such as "3 nodes". measure: which of its quantities, such as "ratio".
    value: the figure that counts, mostly the median of several rounds; None where only their range is known.
    least, most: the range of the rounds; both or neither.
    Raises ValueError, as decoding does with msgspec.ValidationError, for a figure without numbers, and for a value
    outside of its range.
    """

    case: Annotated[str, Meta(min_length=1)]
    measure: Annotated[str, Meta(min_length=1)]
    unit: Unit
    value: float | None = None
    least: float | None = None
    most: float | None = None
    aim: Aim | None = None

    def __post_init__(self) -> None:
        if (self.least is None) != (self.most is None):
            raise ValueError("A range has two ends.")
        ordered = [number for number in (self.least, self.value, self.most) if number is not None]
        if not ordered or ordered != sorted(ordered):
            raise ValueError("A figure has a value, a range, or a value within a range.")

    @property
    def missed(self) -> bool:
        """Whether the figure, or where only a range is known any part of it, is not what was aimed at."""
        numbers = (self.least, self.most) if self.value is None else (self.value,)
        return self.aim is not None and not all(self.aim.met(number) for number in numbers if number is not None)


class Measure(NamedTuple):
    """A quantity that is measured of several cases: a column of a table."""

    name: str
    unit: Unit

    def of(self, case: str, values: float | Sequence[float], aim: Aim | None = None) -> Figure:
        """The figure of one case: a number, or the median and the range of the rounds' numbers."""
        rounds = [values] if isinstance(values, (int, float)) else values
        value, least, most = (rounded(of(rounds)) for of in (statistics.median, min, max))
        figure = Figure(case=case, measure=self.name, unit=self.unit, value=value, aim=aim)
        return structs.replace(figure, least=least, most=most) if least < most else figure


def rounded(value: float) -> float:
    """To `DIGITS` digits, but never to tens."""
    return float(f"{value:.{DIGITS}g}") if abs(value) < 10**DIGITS else float(round(value))


class Record(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """One run of a benchmark.

    name: also that of its file. command: what was run. commit: of the source that ran; with "-dirty", of changed
    source. copied: the figures were not recorded by the benchmark itself but taken from the page that `commit` wrote.
    settings: the benchmark's options, defaults included. tables: figures by the heading of their first column.
    Raises ValueError, as decoding does with msgspec.ValidationError, where two figures claim one cell of a table.
    """

    name: Annotated[str, Meta(pattern=r"^[a-z0-9-]+$")]
    command: Annotated[str, Meta(min_length=1)]
    date: date
    commit: Annotated[str, Meta(pattern=r"^[0-9a-f]{7,40}(-dirty)?$")]
    copied: bool = False
    hardware: Hardware
    settings: dict[str, Setting | list[Setting]] = {}
    tables: Annotated[dict[str, Annotated[tuple[Figure, ...], Meta(min_length=1)]], Meta(min_length=1)]

    def __post_init__(self) -> None:
        for heading, figures in self.tables.items():
            if len({(one.case, one.measure) for one in figures}) < len(figures):
                raise ValueError(f"Two figures of {heading!r} have the same case and measure.")

    def figure(self, case: str, measure: str) -> Figure:
        """Raises LookupError where the record does not have exactly one such figure."""
        figures = [one for table in self.tables.values() for one in table]
        found = [one for one in figures if (one.case, one.measure) == (case, measure)]
        if len(found) != 1:
            raise LookupError(f"docs/figures/{self.name}.json has {len(found)} figures {case!r}, {measure!r}.")
        return found[0]


def read_record(file: Path) -> Record:
    """Raises msgspec.ValidationError for what is not a record, and ValueError for one of another name than its file."""
    record = msgspec.json.decode(file.read_bytes(), type=Record)
    if record.name != file.stem:
        raise ValueError(f"{file.name} holds the record {record.name}.")
    return record


def write_record(record: Record, folder: Path) -> Path:
    """The file that holds it now, in place of an older record of its name."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{record.name}.json"
    file.write_bytes(msgspec.json.format(msgspec.json.encode(record), indent=2) + b"\n")
    return file
