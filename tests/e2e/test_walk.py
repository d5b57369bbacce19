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

from kit.documents import ROOT, Running, commands, filled, run_command
from kit.processes import finish

LEFT_OUT = {
    r"make test": "this test is a part of it",
    r"CMAKE_ARGS=": "in place of make demo",
}
INSTALL_S = 3 * 3600.0
"""pip's cache has llama.cpp where `make test` ran before, and then it takes half a minute; else it is compiled.

A bound that ends a hang: two cores compile it in some 5 minutes.
"""


@pytest.fixture
def clone(tmp_path: Path) -> Iterator[Path]:
    """What is tracked, as it is in the working tree."""
    folder = tmp_path / "potluck"
    listed = finish("git", "ls-files", "-z", cwd=ROOT).stdout
    for name in filter(None, listed.split("\0")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    yield folder
    shutil.rmtree(folder)  # with half a gigabyte of packages


@pytest.fixture
def env(clone: Path, tmp_path: Path) -> dict[str, str]:
    """A stranger's: nothing of this test run's Python and make. The README has them take `potluck` from the clone."""
    ours = re.compile(r"PYTHON\w*|VIRTUAL_ENV|MAKE\w*|MFLAGS|CMAKE_ARGS|POTLUCK_\w+|HF_\w+")
    kept = {name: value for name, value in os.environ.items() if not ours.fullmatch(name)}
    path = f"{clone}/.venv/bin:{os.environ['PATH']}"
    own = {"POTLUCK_DATA": str(tmp_path / "data"), "POTLUCK_CACHE": str(tmp_path / "cache")}
    return kept | own | {"PATH": path, "PYTHONUNBUFFERED": "1"}


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
