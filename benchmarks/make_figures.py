"""Writes the tables of README.md and docs/performance.md from the records in docs/figures: `make docs`.

A table stands between `<!-- figures: NAME -->` and `<!-- /figures -->`. NAME is the name of a record, `summary` for the
table of `LINES`, or `machines` for the machines that the records come from.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from bench.record import Record, read_record
from bench.report import FIGURES, ROOT
from bench.tables import aim, amount, grid, markdown

PAGES = (ROOT / "README.md", ROOT / "docs" / "performance.md")
BLOCK = re.compile(r"(<!-- figures: ([a-z0-9-]+) -->\n).*?(<!-- /figures -->)", re.DOTALL)
WIDTH = 120

Records = Mapping[str, Record]
"""By name."""


class Line(NamedTuple):
    """A row of the README's table: what was measured, in words, and the figure that it shows."""

    what: str
    record: str
    case: str
    measure: str


THREE_NODES = "Speed of one stream through 3 nodes on one machine, relative to the unsplit engine"
LIARS = "all at the default rate"
ADDED = "processor time added to a token"
NEOX = "44 layers, 4 nodes"
LINES = (
    Line(THREE_NODES, "tax", "3 nodes", "ratio"),
    Line("The same with one thread in each node", "tax-1-thread", "3 nodes", "ratio"),
    Line("The same with the plain weight layout", "tax-plain", "3 nodes", "ratio"),
    Line(
        "Speed of 16 streams through 2 nodes with one core each, relative to one at a time",
        "throughput",
        "one at a time",
        "ratio",
    ),
    Line("The same, relative to the unsplit engine on both cores", "throughput", "the unsplit engine", "ratio"),
    Line(
        "Speed of 16 streams over links of 25 ms each way, relative to one stream",
        "wan",
        "16 streams relative to one",
        "ratio",
    ),
    Line(
        "Pause in an answer with 500 tokens of context when a node is killed, median",
        "recovery",
        "node killed (median)",
        "longest pause",
    ),
    Line("Pause in such an answer when a node freezes, longest", "recovery", "node frozen (longest)", "longest pause"),
    Line(
        "Answers in two minutes of kills, freezes and cuts, all of them whole",
        "chaos",
        "answers, all of them whole",
        "result",
    ),
    Line("Those that differed from the undisturbed answers", "chaos", "answers with other words", "result"),
    Line("Lying nodes that were caught, at the default rate of audits", "adversary", LIARS, "caught"),
    Line("Lying nodes that were caught within 200 tokens", "adversary", LIARS, "within 200 tokens"),
    Line("Audits of honest nodes with two weight layouts", "adversary-honest", "two weight layouts", "audits"),
    Line("Those that accused anybody", "adversary-honest", "two weight layouts", "accusations"),
    Line("Processor time that audits add to a token of one stream", "adversary-overhead", "1 stream", ADDED),
    Line("Processor time that audits add to a token of each of 4 streams", "adversary-overhead", "4 streams", ADDED),
    Line("GPT-NeoX-20B in Q4_0 on 4 nodes of one machine: time per token", "neox20b", NEOX, "time per token"),
    Line("The same, relative to what the memory's bandwidth allows", "neox20b", NEOX, "relative to the bound"),
    Line("The same: time to the first token after a prompt of 128", "neox20b", NEOX, "time to the first token"),
)


def read_records(folder: Path = FIGURES) -> dict[str, Record]:
    """All records in a folder. Raises what `read_record` raises."""
    return {file.stem: read_record(file) for file in sorted(folder.glob("*.json"))}


def page(text: str, records: Records) -> str:
    """The page with its tables made anew. Raises LookupError for a record or a figure that does not exist."""
    return BLOCK.sub(lambda found: f"{found[1]}{block(found[2], records)}\n{found[3]}", text)


def block(name: str, records: Records) -> str:
    if name == "summary":
        return f"{summary(records)}\n\n{machines(records)}"
    return machines(records) if name == "machines" else tables(records[name], records)


def summary(records: Records) -> str:
    rows = []
    for line in LINES:
        figure = records[line.record].figure(line.case, line.measure)
        rows.append([line.what, amount(figure, with_unit=True), aim(figure, with_unit=True)])
    return markdown([["What was measured", "Result", "Aim"], *rows])


def tables(record: Record, records: Records) -> str:
    """All tables of one record, and a sentence about where they come from."""
    made = [markdown(grid(heading, figures)) for heading, figures in record.tables.items()]
    return "\n\n".join([*made, _wrapped(origin(record, records))])


def origin(record: Record, records: Records) -> str:
    where = f" on machine {letters(records)[str(record.hardware)]}" if len(letters(records)) > 1 else ""
    run = f"Measured with `{record.command}`{where} on {record.date}"
    if record.copied:
        return f"{run}; taken from the page that commit `{record.commit}` wrote."
    return f"{run}, at commit `{record.commit}`."


def letters(records: Records) -> dict[str, str]:
    """The letter that stands for each machine."""
    return {machine: chr(ord("A") + number) for number, machine in enumerate(_machines(records))}


def _machines(records: Records) -> list[str]:
    return list(dict.fromkeys(str(record.hardware) for record in records.values()))


def machines(records: Records) -> str:
    if len(_machines(records)) == 1:
        return _wrapped(f"All figures come from one machine: {_machines(records)[0]}.")
    return "\n".join(_wrapped(f"* Machine {letter}: {machine}.") for machine, letter in letters(records).items())


def _wrapped(text: str) -> str:
    indent = "  " if text.startswith("* ") else ""
    return textwrap.fill(text, WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def main() -> None:
    records = read_records()
    for path in PAGES:
        path.write_text(page(path.read_text("utf-8"), records), "utf-8")


if __name__ == "__main__":
    main()
