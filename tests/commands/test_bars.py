"""What a node's owner reads where no terminal is: a log file, a journal."""

from __future__ import annotations

import pytest

from potluck.commands.bars import ConsoleReporter


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_what_takes_long_is_told_at_tenths(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    with ConsoleReporter(clock) as reporter:
        for percent in range(0, 101, 5):
            reporter.progress("Fetching", percent / 100)
            clock.now += 0.6
    told = capsys.readouterr().out.splitlines()
    assert told == [f"Fetching: {percent}%." for percent in range(10, 100, 10)]


def test_what_is_quick_or_has_no_measure_is_not_told(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    with ConsoleReporter(clock) as reporter:
        reporter.progress("Waiting", None)
        clock.now += 100.0
        for phase in ("Fetching", "Loading", "Measuring"):
            for percent in range(101):
                reporter.progress(phase, percent / 100)
            clock.now += 0.9
    assert capsys.readouterr().out == ""


def test_each_phase_counts_from_its_own_beginning(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    with ConsoleReporter(clock) as reporter:
        for phase in ("Fetching", "Loading"):
            reporter.progress(phase, 0.0)
            clock.now += 1.0
            reporter.progress(phase, 0.5)
    assert capsys.readouterr().out == "Fetching: 50%.\nLoading: 50%.\n"
