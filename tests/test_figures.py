"""Figures are written once: the pages' tables are what the records in docs/figures give, and nothing else."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import msgspec
import pytest

from kit.processes import PYTHON, finish

ROOT = Path(__file__).parent.parent
FUZZ = ROOT / "benchmarks" / "fuzz.py"

with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(str(FUZZ.parent))  # only now: the scripts beside it have names that folders of tests have
    import make_figures
    from bench.record import Aim, Figure, Measure, Record, at_least, below, read_record, rounded
    from bench.report import FIGURES, command
    from bench.tables import grid

RECORDS = make_figures.read_records()
TEXTS = {path.name: path.read_text("utf-8") for path in make_figures.PAGES}
MEASURED = re.compile(r"^## Measured\n(.*?)^## ", re.MULTILINE | re.DOTALL)
"""The part of the README that tells figures."""


def loose_rows(text: str) -> Iterator[str]:
    """Rows of tables that no record stands behind."""
    yield from re.findall(r"^\|.*", make_figures.BLOCK.sub("", text), re.MULTILINE)


def figures_part(name: str) -> str:
    if name != "README.md":
        return TEXTS[name]
    found = MEASURED.search(TEXTS[name])
    assert found is not None
    return found[1]


@pytest.mark.parametrize("file", sorted(FIGURES.glob("*")), ids=lambda file: file.name)
def test_every_file_is_a_record(file: Path) -> None:
    assert read_record(file).date <= date.today()


@pytest.mark.parametrize("name", TEXTS)
def test_a_page_is_what_the_figures_give(name: str) -> None:
    assert make_figures.page(TEXTS[name], RECORDS) == TEXTS[name], "The figures have changed: run make docs."


@pytest.mark.parametrize("name", TEXTS)
def test_no_row_of_a_table_is_without_a_figure(name: str) -> None:
    assert list(loose_rows(figures_part(name))) == []


def test_every_record_is_on_a_page() -> None:
    shown = {name for text in TEXTS.values() for _, name, _ in make_figures.BLOCK.findall(text)}
    assert shown == {*RECORDS, "summary", "machines"}


@pytest.mark.parametrize("name", TEXTS)
def test_every_table_begins_and_ends(name: str) -> None:
    marks = re.findall(r"<!-- (/?)figures", TEXTS[name])
    assert marks == ["", "/"] * (len(marks) // 2)
    assert len(marks) == 2 * len(make_figures.BLOCK.findall(TEXTS[name]))


RECORD = {
    "name": "toy",
    "command": "python benchmarks/toy.py",
    "date": "2026-01-31",
    "commit": "0123abc",
    "hardware": {"cpu": "toy", "cores": 1, "memory_gib": 1, "instructions": [], "system": "toy"},
    "tables": {"case": [{"case": "one", "measure": "speed", "unit": "tokens/s", "value": 2}]},
}


def changed(**fields: object) -> dict[str, object]:
    return {**RECORD, **fields}


def of_figure(**fields: object) -> dict[str, object]:
    return changed(tables={"case": [{"case": "one", "measure": "speed", "unit": "s", **fields}]})


TOY = msgspec.convert(RECORD, Record)
PAGE = """# Toy

<!-- figures: toy -->
| case | speed, tokens/s |
|---|---|
| one | 2 |

Measured with `python benchmarks/toy.py` on 2026-01-31, at commit `0123abc`.
<!-- /figures -->
"""


@pytest.mark.parametrize(
    ("row", "other"),
    [
        ("| one | 2 |", "| one | 3 |"),
        ("| one | 2 |", "| one | 2 |\n| two | 4 |"),
        ("| one | 2 |\n", ""),
        ("tokens/s", "tokens/h"),
        ("0123abc", "0123abd"),
    ],
)
def test_a_table_that_somebody_wrote_is_found(row: str, other: str) -> None:
    assert row in PAGE
    assert make_figures.page(PAGE, {"toy": TOY}) == PAGE
    assert make_figures.page(PAGE.replace(row, other), {"toy": TOY}) == PAGE


def test_a_row_outside_of_the_tables_is_found() -> None:
    assert list(loose_rows(f"{PAGE}\n| two | 4 |\n")) == ["| two | 4 |"]


def test_a_page_cannot_name_what_is_not_recorded() -> None:
    with pytest.raises(LookupError):
        make_figures.page(PAGE, {})
    with pytest.raises(LookupError, match=r"docs/figures/toy\.json has 0 figures 'two', 'speed'"):
        TOY.figure("two", "speed")


def test_copied_figures_name_their_source() -> None:
    copied = msgspec.structs.replace(TOY, copied=True)
    assert "; taken from the page that commit `0123abc` wrote." in make_figures.block("toy", {"toy": copied})


def test_machines_are_told_apart() -> None:
    other = msgspec.structs.replace(TOY, hardware=msgspec.structs.replace(TOY.hardware, cpu="another CPU"))
    both = {"toy": TOY, "other": other}
    assert (
        make_figures.machines({"toy": TOY}) == "All figures come from one machine: toy, 1 core, 1 GiB of memory, toy."
    )
    assert make_figures.machines(both).endswith("\n* Machine B: another CPU, 1 core, 1 GiB of memory, toy.")
    assert "on machine B on" in make_figures.block("other", both)


def test_the_schema_takes_a_record() -> None:
    assert TOY.figure("one", "speed").value == 2
    assert msgspec.json.decode(msgspec.json.encode(TOY), type=Record) == TOY


@pytest.mark.parametrize(
    "wrong",
    [
        changed(name="Toy.json"),
        changed(date="yesterday"),
        changed(commit="today's"),
        changed(colour="red"),
        changed(tables={}),
        changed(tables={"case": []}),
        changed(tables={"case": 2 * RECORD["tables"]["case"]}),  # type: ignore[index]
        changed(hardware={"cpu": "toy"}),
        {name: value for name, value in RECORD.items() if name != "hardware"},
        of_figure(),
        of_figure(value="fast"),
        of_figure(value=1, unit="furlongs"),
        of_figure(least=1),
        of_figure(least=2, most=1),
        of_figure(value=3, least=1, most=2),
        of_figure(value=1, aim={"rule": "about", "bound": 2}),
    ],
)
def test_the_schema_refuses_what_is_no_record(wrong: dict[str, object]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(wrong, Record)


def test_a_record_lies_in_the_file_of_its_name(tmp_path: Path) -> None:
    (tmp_path / "other.json").write_text(json.dumps(RECORD))
    with pytest.raises(ValueError, match=r"other\.json holds the record toy"):
        make_figures.read_records(tmp_path)


def test_rounds_give_their_median_and_range_in_three_digits() -> None:
    ratio = Measure("ratio", "ratio")
    one, many = ratio.of("one", 0.61449), ratio.of("many", [0.71251, 0.5, 0.6])
    assert (one.value, one.least, one.most) == (0.614, None, None)
    assert (many.value, many.least, many.most) == (0.6, 0.5, 0.713)
    assert rounded(16_088.7) == 16_089


@pytest.mark.parametrize(
    ("figure", "missed"),
    [
        (Measure("m", "s").of("c", 1.0, at_least(1)), False),
        (Measure("m", "s").of("c", 1.0, below(1)), True),
        (Measure("m", "s").of("c", [0.5, 0.9, 1.5], below(1)), False),
        (Figure(case="c", measure="m", unit="s", least=0.5, most=1.5, aim=Aim("below", 1)), True),
        (Measure("m", "s").of("c", 1.0), False),
    ],
)
def test_the_value_is_judged_or_else_the_whole_range(figure: Figure, missed: bool) -> None:
    assert figure.missed is missed


def test_cases_are_rows_and_measures_are_columns() -> None:
    speed, share, pause = Measure("speed", "tokens/s"), Measure("caught", "%"), Measure("pause", "s")
    figures = [
        speed.of("1 node", [1500, 1400, 1600]),
        share.of("1 node", 98.9, at_least(99)),
        speed.of("2 nodes", 0.5),
        pause.of("2 nodes", 2.0, below(3)),
        pause.of("1 node", [-2, 0.5, 1]),
    ]
    assert grid("nodes", figures) == [
        ["nodes", "speed, tokens/s", "caught", "pause, s"],
        ["1 node", "1,500 (1,400–1,600)", "98.9% (aim ≥ 99%, missed)", "0.5 (-2 to 1)"],
        ["2 nodes", "0.5", "", "2 (aim < 3)"],
    ]


@pytest.mark.skipif(not (shutil.which("git") and (ROOT / ".git").exists()), reason="a record names its commit")
def test_a_command_names_no_folder_of_the_machine(tmp_path: Path) -> None:
    told = command(["/x/benchmarks/peers.py", "--bin", str(tmp_path / "bin"), "--rounds", "1", "--record"])
    assert told == "python benchmarks/peers.py --bin bin --rounds 1"


def test_a_benchmark_records_what_it_measured(tmp_path: Path) -> None:
    told = finish(*PYTHON, FUZZ, "--record", tmp_path, "--inputs", 300)
    assert told.returncode == 0, told.stderr
    record = read_record(tmp_path / "fuzz.json")
    assert record.command == "python benchmarks/fuzz.py --inputs 300"
    assert (record.date, record.copied) == (date.today(), False)
    assert record.settings == {"inputs": 300, "seed": 0, "memory": 256}
    assert record.hardware.kernels
    assert record.hardware.library.startswith("llama-cpp-python ")
    last = json.loads(told.stdout.splitlines()[-1])
    assert last["tables"] == json.loads(msgspec.json.encode(record.tables))
    assert last["hardware"] == json.loads(msgspec.json.encode(record.hardware))


def test_a_benchmark_that_cannot_name_its_commit_records_nothing(tmp_path: Path) -> None:
    told = finish(*PYTHON, FUZZ, "--record", tmp_path, "--inputs", 1, env={**os.environ, "PATH": ""})
    assert told.returncode == 1
    assert told.stderr.startswith("--record notes the commit that was measured")
    assert not list(tmp_path.iterdir())
