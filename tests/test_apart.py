"""Tests that run in a child are counted, fail, are skipped and die like all others."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent

CONFTEST = """
from kit import apart

def pytest_configure(config):
    apart.register(config, [
        apart.Group("child", ["one/test_child.py"], {"COLOUR": "green"}),
        apart.Group("again", ["two/test_here.py"], {"COLOUR": "blue"}, shared=True),
        apart.Group("never", ["two/test_here.py"], shared=True, missing="this CPU has no wings"),
    ])
"""
CHILD = """
import os, signal
import pytest

def test_passes():
    assert os.environ["COLOUR"] == "green"

def test_fails():
    print("what it printed")
    assert "cabbage" == "king"

@pytest.mark.skip(reason="it rains")
def test_is_skipped():
    pass

def test_dies():
    os.kill(os.getpid(), signal.SIGILL)

def test_comes_after_the_death():
    pass
"""
HERE = """
import os

def test_here():
    assert os.environ.get("COLOUR") != "green"
"""


@pytest.fixture
def told(tmp_path: Path) -> str:
    """What pytest prints of a small project with one file that runs apart, and one that runs here and apart."""
    for name, text in (
        ("pytest.ini", "[pytest]\n"),
        ("conftest.py", CONFTEST),
        ("one/test_child.py", CHILD),
        ("two/test_here.py", HERE),
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    environment = {name: value for name, value in os.environ.items() if name != "POTLUCK_TESTS_CHILD"}
    command = [sys.executable, "-m", "pytest", "-v", "-ra"]
    done = subprocess.run(
        command, env=environment | {"PYTHONPATH": str(TESTS)}, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    return done.stdout + done.stderr


def test_what_becomes_of_tests_that_run_apart(told: str) -> None:
    for name, outcome in (
        ("one/test_child.py::test_passes", "PASSED"),
        ("one/test_child.py::test_fails", "FAILED"),
        ("one/test_child.py::test_is_skipped", "SKIPPED"),
        ("one/test_child.py::test_dies", "FAILED"),
        ("one/test_child.py::test_comes_after_the_death", "PASSED"),
        ("two/test_here.py::test_here", "PASSED"),
        ("two/test_here.py@again::test_here", "PASSED"),
        ("two/test_here.py@never::never", "SKIPPED"),
    ):
        assert f"{name} {outcome}" in told, told
    assert "2 failed, 4 passed, 2 skipped" in told


def test_the_reasons_reach_the_parent(told: str) -> None:
    assert "assert 'cabbage' == 'king'" in told
    assert "what it printed" in told
    assert "The process that ran this test ended with SIGILL." in told
    assert "it rains" in told
    assert "this CPU has no wings" in told
