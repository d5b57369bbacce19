"""The schema of the files in docs/figures, which hold what benchmarks measured."""

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
"""Figures are rounded to so many digits before they are judged, so that pages show what the aims were judged by."""

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
    """One quantity of one case. In a table the case is the row and the measure is the column.

    case: what was measured, such as "3 nodes". measure: the quantity, such as "ratio".
    value: the figure that counts, usually the median of several rounds; None if only their range is known.
    least, most: the range of the rounds; both are set, or neither.
    Raises ValueError (decoding raises msgspec.ValidationError) for a figure that has no numbers, or whose value lies
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
        """Whether the value misses the aim, or, if only a range is known, whether any part of the range does."""
        numbers = (self.least, self.most) if self.value is None else (self.value,)
        return self.aim is not None and not all(self.aim.met(number) for number in numbers if number is not None)


class Measure(NamedTuple):
    """A quantity that is measured for several cases. In a table it is a column."""

    name: str
    unit: Unit

    def of(self, case: str, values: float | Sequence[float], aim: Aim | None = None) -> Figure:
        """The figure of one case, from one number or from the numbers of several rounds: their median and range."""
        rounds = [values] if isinstance(values, (int, float)) else values
        value, least, most = (rounded(of(rounds)) for of in (statistics.median, min, max))
        figure = Figure(case=case, measure=self.name, unit=self.unit, value=value, aim=aim)
        return structs.replace(figure, least=least, most=most) if least < most else figure


def rounded(value: float) -> float:
    """The value with `DIGITS` digits, or as a whole number if that has more."""
    return float(f"{value:.{DIGITS}g}") if abs(value) < 10**DIGITS else float(round(value))


class Record(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """One run of a benchmark.

    name: the name of the record and of its file. command: the command that ran.
    commit: the commit that ran, with "-dirty" if its source had been changed.
    copied: whether the figures were taken from the page that `commit` wrote, instead of recorded by the benchmark.
    settings: the benchmark's options, including defaults. tables: figures by the heading of the table's first column.
    Raises ValueError (decoding raises msgspec.ValidationError) if two figures claim the same cell of a table.
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
        """Find a figure. Raises LookupError if the record does not have exactly one such figure."""
        figures = [one for table in self.tables.values() for one in table]
        found = [one for one in figures if (one.case, one.measure) == (case, measure)]
        if len(found) != 1:
            raise LookupError(f"docs/figures/{self.name}.json has {len(found)} figures {case!r}, {measure!r}.")
        return found[0]


def read_record(file: Path) -> Record:
    """Read a record from its file.

    Raises msgspec.ValidationError if the file does not hold a record, and ValueError if the record has another name.
    """
    record = msgspec.json.decode(file.read_bytes(), type=Record)
    if record.name != file.stem:
        raise ValueError(f"{file.name} holds the record {record.name}.")
    return record


def write_record(record: Record, folder: Path) -> Path:
    """Write a record to its file, replacing an older record of the same name. Returns the file."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{record.name}.json"
    file.write_bytes(msgspec.json.format(msgspec.json.encode(record), indent=2) + b"\n")
    return file
