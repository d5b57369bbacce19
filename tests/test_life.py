"""Nodes are killed, frozen and cut off while many streams run: no answer breaks off, and none changes by a byte."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kit.processes import PYTHON, finish

CHAOS = Path(__file__).parent.parent / "benchmarks" / "chaos.py"


@pytest.mark.parametrize("guess", [(), ("--guess", "random"), ("--guess", "right:0.8")], ids=["own", "random", "right"])
def test_no_answer_breaks_while_nodes_come_and_go(nightly: bool, guess: tuple[str, ...]) -> None:
    if "random" in guess and not nightly:
        pytest.skip("Random guesses under chaos are for `make nightly`.")
    told = finish(*PYTHON, CHAOS, "--seconds", 120 if nightly else 25, *guess)
    assert told.returncode == 0, told.stdout + told.stderr
    figures = json.loads(told.stdout.splitlines()[-1])
    assert figures["answers"] >= 16
    assert figures["kill"] + figures["freeze"] + figures["cut"] >= 4
    assert (figures["differ"], figures["leaked"]) == (0, 0)
    if guess:
        assert figures["counts"]["void"] > 0
