"""A stranger's walk: from a clone, by nothing but the README's commands, to three nodes and an answer."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from kit import bare
from kit.documents import Running, commands, filled, run_command

LEFT_OUT = {
    r"make test": "this test is a part of it",
    r"pip install": "in place of make demo",
    r"(\w+=\S+ )?make native": "it compiles, as make test did",
}
INSTALL_S = 3 * 3600.0
"""Ends a hang: an installation takes half a minute, and longer where everything has to be downloaded."""


@pytest.fixture
def clone(tmp_path: Path) -> Iterator[Path]:
    yield bare.clone(tmp_path / "potluck")
    shutil.rmtree(tmp_path / "potluck")  # with half a gigabyte of packages


@pytest.fixture
def env(clone: Path, tmp_path: Path) -> dict[str, str]:
    """A stranger's. The README has them take `potluck` from the clone."""
    return bare.strangers_environment(tmp_path) | {"PATH": f"{clone}/.venv/bin:{os.environ['PATH']}"}


def walk(way: str, clone: Path, env: dict[str, str]) -> Iterator[tuple[str, str]]:
    """Takes each command of these, in order, and gives what it said by then; those that stay end when all are done."""
    # What differs from machine to machine: a port that is free here, and what the coordinator says of itself.
    substitutions = {"potluck serve": "potluck serve --port 0"}
    with ExitStack() as stack:
        for command in commands(way):
            if any(re.match(pattern, command.text) for pattern in LEFT_OUT):
                continue
            text = filled(command.text, substitutions)
            if (stays := re.match("potluck (serve|join)", text)) is None:
                yield command.text, run_command(replace(command, text=text), clone, env, INSTALL_S)
                continue
            running = stack.enter_context(Running(text, clone, env))
            if stays[1] == "serve":
                substitutions[r'"http://192\.168\.1\.5:8470/#\S+"'] = running.wait_for('potluck join (".+")')
                substitutions[r"http://192\.168\.1\.5:8470"] = running.wait_for(r"Serving \S+ at (\S+)")
            else:
                running.wait_for("Serving layers")
            yield command.text, running.told


def test_the_readme_leads_from_a_clone_to_an_answer(clone, env):
    way, _, _ = (clone / "README.md").read_text("utf-8").partition("\n## In the browser\n")
    said = dict(walk(way, clone, env))
    assert sum(command.startswith("potluck join") for command in said) == 3
    [demo] = [told for command, told in said.items() if command.startswith("make demo")]
    assert demo.endswith("The swarm has stopped.\n")
    [status] = [told for command, told in said.items() if command.startswith("potluck status")]
    assert "Every layer is covered." in status
    assert re.findall(r"(\w+) +([\d-]+) +ready", status) == [("anna", "0-12"), ("ben", "13-24"), ("cleo", "25-29")]
    [answer] = [told for command, told in said.items() if command.startswith("potluck chat")]
    assert re.search(r"^Talking to SmolLM2.*\n.*\w{3}", answer)
