"""Installed without a compiler: from a clone, and from a wheel in an empty environment, to the demo's answer."""

from __future__ import annotations

import re
import shutil
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from kit import bare
from kit.document_names import ROOT
from kit.foreign import index_is_reached
from kit.processes import PYTHON, finish
from kit.resolves import MACHINES, PYTHONS, fault

INSTALL_S = 3600.0
"""Ends a hang: with a warm cache an installation takes half a minute."""


@pytest.fixture(scope="module", autouse=True)
def index(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Where packages come from, without which nothing can be installed."""
    if not index_is_reached(tmp_path_factory.mktemp("index")):
        pytest.skip("No index of packages can be reached.")


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    shutil.rmtree(tmp_path)  # with half a gigabyte of packages


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from the sdist, which is built from a clone."""
    clone = bare.clone(tmp_path_factory.mktemp("built") / "potluck")
    done = finish(*PYTHON, "-m", "build", clone, timeout_s=INSTALL_S)
    assert done.returncode == 0, done.stdout + done.stderr
    [wheel] = (clone / "dist").glob("*.whl")
    return wheel


def check_answer(said: str) -> None:
    assert re.search(r"\n> What is a potluck dinner\?.*\n.*\w{3}", said)
    assert said.endswith("\nThe swarm has stopped.\n")


def test_from_a_clone_to_an_answer_without_a_compiler(folder: Path) -> None:
    began = time.monotonic()
    clone = bare.clone(folder / "a clone")
    done = finish("make", "demo", cwd=clone, env=bare.bare_environment(folder), timeout_s=INSTALL_S)
    sys.stdout.write(f"From a clone to the demo's answer in {time.monotonic() - began:.0f} s.\n")
    assert done.returncode == 0, done.stdout + done.stderr
    check_answer(done.stdout)
    assert "Compiling" not in done.stdout
    assert not list((clone / "src").rglob("*.so"))


def test_the_wheel_runs_the_demo_without_the_sources(wheel: Path, folder: Path) -> None:
    """As `uvx potluck demo` and `pipx run potluck demo` do; the demo downloads its model."""
    environment = bare.bare_environment(folder)
    assert finish("python3", "-m", "venv", folder / "env", env=environment).returncode == 0
    python = folder / "env" / "bin" / "python"
    command = [python, "-m", "pip", "install", "-q", "-c", ROOT / "constraints.txt", wheel]
    done = finish(*command, cwd=folder, env=environment, timeout_s=INSTALL_S)
    assert done.returncode == 0, done.stdout + done.stderr
    done = finish(python.parent / "potluck", "demo", cwd=folder, env=environment, timeout_s=INSTALL_S)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("Downloading the demo's model, once: 89 MiB, into ")
    check_answer(done.stdout)


def test_the_wheel_is_for_every_system_and_has_all_files(wheel: Path) -> None:
    assert wheel.name.endswith("-py3-none-any.whl")
    with zipfile.ZipFile(wheel) as members:
        shipped = {name for name in members.namelist() if name.startswith("potluck/")}
    tracked = finish("git", "ls-files", "src/potluck", cwd=ROOT).stdout.split()
    assert shipped == {name.removeprefix("src/") for name in tracked if not name.endswith(".c")}


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("machine", MACHINES)
def test_everything_has_wheels(machine: str, python: str) -> None:
    assert fault(machine, python) is None


def test_what_has_no_wheels_is_found() -> None:
    told = fault("Linux x86-64", "3.11", "llama-cpp-python==0.3.36")
    assert told is not None
    assert "llama-cpp-python" in told
