"""Hostile frames: nothing but WireError comes out of what reads them, and memory stays bounded."""

from __future__ import annotations

import json
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import get_args

from kit.processes import PYTHON, finish
from potluck.wire.messages import AnyMessage

FUZZ = Path(__file__).parent.parent / "benchmarks" / "fuzz.py"

PLANTED = """
import fuzz

def read(frame):
    if b"iidden" in frame:
        raise IndexError("planted")

fuzz.fuzz(100_000, 0, read)
"""
"""A reader with a fault that one flipped bit brings out."""


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return finish(*PYTHON, *arguments, cwd=FUZZ.parent)


def test_hostile_frames_raise_nothing_but_wire_errors(nightly: bool) -> None:
    inputs = 500_000 if nightly else 100_000
    halves = [(FUZZ, "--inputs", inputs, "--seed", seed, "--memory", 128) for seed in (0, 1)]
    with ThreadPoolExecutor() as pool:  # two processes, for two cores
        for told in pool.map(lambda half: run(*half), halves):
            check(told, inputs)


def check(told: subprocess.CompletedProcess[str], inputs: int) -> None:
    assert told.returncode == 0, told.stderr
    figures = json.loads(told.stdout.splitlines()[-1])
    assert figures["inputs"] == inputs
    assert figures["grown_mib"] < 32
    kinds = {kind.__name__ for kind in get_args(AnyMessage)}
    refused = {"first frame refused", "header refused", "rows refused", "ids refused", "Scores refused"}
    assert kinds | refused | {"first frame", "rows", "ids", "Exported refused"} <= figures["read"].keys()


def test_a_fault_is_found_and_its_frame_is_shown() -> None:
    told = run("-c", PLANTED)
    assert told.returncode == 1
    assert "IndexError: planted" in told.stderr
    assert "of seed 0: bytes.fromhex(" in told.stderr
