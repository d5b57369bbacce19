"""Tables of figures, for the terminal and as Markdown for the pages."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from bench.record import Figure

Grid = Sequence[Sequence[str]]
"""The header and the rows."""

BARE = {"ratio", "count"}
"""Units that tables do not show."""

SIGNS = {"at least": "≥", "below": "<"}
"""How tables show the rules of aims."""


def print_table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table whose columns are as wide as their cells; only the first one is aligned to the left."""
    lines = [[str(cell) for cell in line] for line in (header, *rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for first, *rest in lines:
        print(first.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True)))
    sys.stdout.flush()


def markdown(grid: Grid) -> str:
    header, *rows = ("| " + " | ".join(line) + " |" for line in grid)
    return "\n".join([header, "|" + "---|" * len(grid[0]), *rows])


def grid(heading: str, figures: Sequence[Figure]) -> Grid:
    """The table of these figures, with a row for each case and a column for each measure, in the figures' order.

    If a whole column has the same unit, the header shows it, unless it is "%".
    """
    measures = {measure: _shared_unit(measure, figures) for measure in dict.fromkeys(one.measure for one in figures)}
    cells = {(one.case, one.measure): cell(one, with_unit=not measures[one.measure]) for one in figures}
    header = [heading, *(_header(measure, unit) for measure, unit in measures.items())]
    cases = dict.fromkeys(one.case for one in figures)
    return [header, *([case, *(cells.get((case, measure), "") for measure in measures)] for case in cases)]


def _shared_unit(measure: str, figures: Sequence[Figure]) -> str:
    """The unit for the header of a column; empty if each cell shows its own."""
    units = {one.unit for one in figures if one.measure == measure}
    return "" if len(units) > 1 or "%" in units else units.pop()


def _header(measure: str, unit: str) -> str:
    return measure if unit in {"", measure} | BARE else f"{measure}, {unit}"


def cell(figure: Figure, *, with_unit: bool) -> str:
    """The figure with its range and its aim, such as "2.56 s (aim < 3 s)"."""
    notes = [] if figure.value is None or figure.least is None else [_range(figure, with_unit)]
    notes += [f"aim {aim(figure, with_unit=with_unit)}"] if figure.aim else []
    return amount(figure, with_unit=with_unit) + (f" ({'; '.join(notes)})" if notes else "")


def amount(figure: Figure, *, with_unit: bool) -> str:
    """The value of a figure, or its range if it has no value."""
    return _range(figure, with_unit) if figure.value is None else number(figure.value, figure.unit, with_unit)


def _range(figure: Figure, with_unit: bool) -> str:
    assert figure.least is not None
    assert figure.most is not None
    to = "–" if figure.least >= 0 else " to "  # a dash before a minus sign cannot be read
    return f"{number(figure.least, figure.unit, False)}{to}{number(figure.most, figure.unit, with_unit)}"


def aim(figure: Figure, *, with_unit: bool) -> str:
    """The aim of a figure, such as "≥ 0.85, missed"; empty if it has none."""
    if figure.aim is None:
        return ""
    bound = number(figure.aim.bound, figure.unit, with_unit)
    return f"{SIGNS[figure.aim.rule]} {bound}{', missed' if figure.missed else ''}"


def counted(count: int, noun: str) -> str:
    """A count with its noun, such as "1 node" and "3 nodes"."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def number(value: float, unit: str, with_unit: bool) -> str:
    """A number for readers, such as "1,517 ms", "98.9%" and "0.74"."""
    digits = f"{value:,.10g}"
    if not with_unit or unit in BARE:
        return digits
    return f"{digits}%" if unit == "%" else f"{digits} {unit}"
