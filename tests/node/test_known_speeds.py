"""The speeds of this machine's libraries, which are compared only for equal work."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from kit.processes import python
from potluck.node.known_speeds import _MOST, Measured, comparison, note_library, note_speed, read_speeds
from potluck.types import Speed

PREBUILT = Measured("prebuilt 1", "layers-2", Speed(0.008, 0.0035))
COMPILED = Measured("compiled 2", "layers-2", Speed(0.004, 0.00125))


def test_the_other_library_is_compared_with_the_one_that_is_used() -> None:
    known = [PREBUILT, COMPILED]
    assert comparison(known, "prebuilt 1") == (
        "compiled 2 was measured here, too: it computes a token 2.00 times as fast, and a prompt 2.80 times."
    )
    assert "prebuilt 1 was measured here, too: it computes a token 0.50 times" in comparison(known, "compiled 2")


def test_other_work_is_not_compared() -> None:
    other = Measured("compiled 2", "layers-4", COMPILED.speed)
    assert comparison([PREBUILT, other], "prebuilt 1") == ""
    assert comparison([PREBUILT], "prebuilt 1") == ""
    assert comparison([], "prebuilt 1") == ""


def test_the_latest_measurement_counts(tmp_path: Path) -> None:
    path = tmp_path / "cache" / "speeds.json"
    assert read_speeds(path) == []
    for measured in (PREBUILT, COMPILED, Measured("prebuilt 1", "layers-2", Speed(0.004, 0.00125))):
        note_speed(path, measured)
    assert [one.library for one in read_speeds(path)] == ["compiled 2", "prebuilt 1"]
    assert "1.00 times as fast, and a prompt 1.00 times" in comparison(read_speeds(path), "prebuilt 1")


def test_a_file_that_is_damaged_or_long_does_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "speeds.json"
    for damaged in (b"", b"[{}]", b"{", b'[{"library": 1}]'):
        path.write_bytes(damaged)
        assert read_speeds(path) == []
    for number in range(_MOST + 5):
        note_speed(path, Measured("a library", f"work {number}", COMPILED.speed))
    assert len(read_speeds(path)) == _MOST
    assert read_speeds(path)[-1].work == f"work {_MOST + 4}"


NOTES = """
import sys
from pathlib import Path
from potluck.node.known_speeds import Measured, note_speed
from potluck.types import Speed
for number in range(50):
    note_speed(Path(sys.argv[1]), Measured("a library", f"{sys.argv[2]} {number}", Speed(1.0, 1.0)))
"""


def test_nodes_that_measure_at_the_same_time_do_not_disturb_each_other(tmp_path: Path) -> None:
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda name: python("-c", NOTES, tmp_path / "speeds.json", name), "abc"))
    assert [file.name for file in tmp_path.iterdir()] == ["speeds.json"]
    assert read_speeds(tmp_path / "speeds.json")


def test_a_speed_that_cannot_be_kept_ends_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("POTLUCK_CACHE", str(tmp_path / "file"))
    assert note_library("layers-2", Speed(1.0, 1.0)).startswith("Computing with ")
