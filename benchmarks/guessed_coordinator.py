"""A coordinator that guesses as a file says, which is `potluck serve` with its guessing wrapped; benchmarks start it.

    python benchmarks/guessed_coordinator.py SCRIPT serve MODEL [...]

The file may change at any time, so that guessing on and off can be compared in one swarm. See bench/guesses.py.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from unittest.mock import patch

from bench.guesses import DEEP, ScriptFile, scripted_guesser
from potluck import cli
from potluck.coordinator.generation import flight, run
from potluck.coordinator.generation.flight import Flight
from potluck.coordinator.generation.guesser_pool import GuesserPool
from potluck.coordinator.generation.guesses import Guess, Guesser, Guesses
from potluck.coordinator.generation.traffic import Traffic
from potluck.planning.guessing import Pass, Trial, most_ahead
from potluck.wire.rows import Ids


class Scripted:
    """What decides about guesses, as the script says."""

    def __init__(self, file: ScriptFile) -> None:
        self._file = file
        self._learned: dict[tuple[str, str], Traffic] = {}
        self._open, self._copy, self._room = GuesserPool.open, Guesses.copy, vars(Pass)["room"].fget
        self._is_on = vars(Trial)["is_on"].fget

    def open(self, pool: GuesserPool) -> Guesser | None:
        return scripted_guesser(self._file, pool.vocabulary, self._open(pool))

    def flight(self, guesses: Guesses, traffic: Traffic, forgets: int) -> Flight:
        """Make a flight that knows of this way to guess alone, and of this place, as if the script never changed."""
        script = self._file.script
        learned = self._learned.setdefault((script.guess, script.place), Traffic())
        traffic.shares, traffic.times = learned.shares, learned.times
        return Flight(guesses, traffic, forgets)

    def copy(self, guesses: Guesses, tokens: Sequence[int], ahead: Sequence[int], allowed: Ids | None) -> Guess | None:
        """Only with its own guesses it copies too, so that the others' share of right ones is that of the script."""
        if self._file.script.guess in ("own", "copies"):
            return self._copy(guesses, tokens, ahead, allowed)
        return None

    def most_ahead(self, share: float, now: Pass) -> int:
        script = self._file.script
        if script.guess == "off":
            return 0
        return DEEP if script.deep else most_ahead(share, now)

    def room(self, now: Pass) -> int:
        script = self._file.script
        if script.guess == "off":
            return 1
        return DEEP + 1 if script.deep else int(self._room(now))

    def is_on(self, trial: Trial) -> bool:
        return self._file.script.deep or bool(self._is_on(trial))


def main() -> None:
    scripted = Scripted(ScriptFile(Path(sys.argv.pop(1))))
    with ExitStack() as stack:
        stack.enter_context(patch.object(GuesserPool, "open", lambda pool: scripted.open(pool)))
        stack.enter_context(patch.object(run, "Flight", scripted.flight))
        stack.enter_context(patch.object(flight, "most_ahead", scripted.most_ahead))
        stack.enter_context(patch.object(Guesses, "copy", lambda *args: scripted.copy(*args)))
        stack.enter_context(patch.object(Pass, "room", property(scripted.room)))
        stack.enter_context(patch.object(Trial, "is_on", property(scripted.is_on)))
        cli.main()


if __name__ == "__main__":
    main()
