"""Describes the llama.cpp library of this machine without loading it into this process."""

from __future__ import annotations

import signal
import subprocess
import sys
from typing import Literal

import msgspec
from msgspec import Struct

_CHILD_S = 60.0
"""Seconds in which the child must load the library. It takes a second; a GPU's driver may take several."""

_REPORT = (sys.executable, "-m", "potluck.engine.library_child")


CardKind = Literal["card", "integrated card", "unified card"]


class Gpu(Struct, frozen=True):
    """A GPU. free, total: bytes of its memory. kind: whether that is its own; a unified one is a fast part of the
    machine's memory, an integrated one just shares it.
    """

    name: str
    free: int
    total: int
    kind: CardKind = "card"


class Library(Struct, frozen=True, tag="loads", tag_field="library"):
    """The library's own description. name: the package with its version, or the folder. told: its kind, for people.

    llama, ggml: their versions. digest: the first hex digits of the kernels' SHA-256, on which last bits depend.
    kernels: what was built in, in its own words, such as `AVX2`. for_gpus: whether it was built for GPUs. gpus: those
    that it can compute on. compiled_tap: whether Potluck's own C code beside it was compiled.
    """

    name: str
    told: str
    llama: str
    ggml: str
    digest: str
    kernels: tuple[str, ...]
    for_gpus: bool
    gpus: tuple[Gpu, ...]
    compiled_tap: bool


class BrokenLibrary(Struct, frozen=True, tag="is broken", tag_field="library"):
    """A library that cannot be used. reason: the reason, as the end of a sentence."""

    reason: str


def read_library(command: tuple[str, ...] = _REPORT) -> Library | BrokenLibrary:
    """The report of a child process, because a library that was built for another CPU kills the process that loads it.

    command: the child's, which writes a `Library` as JSON in its last line.
    """
    try:
        child = subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL, timeout=_CHILD_S, check=False)
    except subprocess.TimeoutExpired:
        return BrokenLibrary(f"it has not loaded within {_CHILD_S:.0f} seconds")
    if child.returncode < 0:
        return BrokenLibrary(f"it ends the process that loads it ({_signal(-child.returncode)})")
    if child.returncode:
        return BrokenLibrary(_last_line(child.stderr) or f"the process that loads it ends with {child.returncode}")
    return msgspec.json.decode(_last_line(child.stdout), type=Library)


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal, which has no name
        return f"signal {number}"


def _last_line(output: bytes) -> str:
    lines = output.decode("utf-8", "replace").strip().splitlines()
    return lines[-1].strip() if lines else ""


def parse_kernels(system_info: str) -> tuple[str, ...]:
    """The names with the value 1 in llama.cpp's description of its build: `CPU : AVX2 = 1 | AVX512 = 0 |`."""
    pairs = [part.rpartition(":")[2].partition("=") for part in system_info.split("|")]
    return tuple(dict.fromkeys(name.strip() for name, _, value in pairs if value.strip() == "1"))
