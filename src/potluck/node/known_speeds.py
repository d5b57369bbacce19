"""What the llama.cpp libraries of this machine compute, as its nodes measured it: a compiled one beside a prebuilt one.

Speeds are compared only where both were measured with the same layers and the same number of threads.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

import msgspec
from msgspec import Struct

from potluck.errors import PotluckError
from potluck.llama.files import find_library
from potluck.models.sources import cache_folder
from potluck.platform import replace
from potluck.types import Speed

log = logging.getLogger(__name__)

_MOST = 64
"""The measurements that are kept; the oldest ones are dropped."""


class Measured(Struct, frozen=True, forbid_unknown_fields=True):
    """One measurement. library: its name with its version. work: the layers and the number of threads."""

    library: str
    work: str
    speed: Speed


def speeds_path() -> Path:
    return cache_folder() / "speeds.json"


def read_speeds(path: Path) -> list[Measured]:
    """All measurements, the latest last; none if there is no such file, or one that cannot be read."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=list[Measured])
    except (OSError, msgspec.DecodeError):
        return []


def note_speed(path: Path, latest: Measured) -> None:
    """Add a measurement, in the place of an earlier one of the same work with the same library."""
    others = [one for one in read_speeds(path) if (one.library, one.work) != (latest.library, latest.work)]
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_suffix(f".{os.getpid()}.new")  # the nodes of a machine measure at the same time
    fresh.write_bytes(msgspec.json.encode([*others, latest][-_MOST:]))
    replace(fresh, path)


def note_library(work: str, speed: Speed) -> str:
    """Keep the speed of this work with the library that is used, and return a line that says which one that is."""
    files = find_library()
    try:
        note_speed(speeds_path(), Measured(files.name, work, speed))
    except (OSError, PotluckError) as error:
        log.warning("The speed of this node cannot be kept: %s", error)
    return f"Computing with {files.name} ({files.told}). {comparison(read_speeds(speeds_path()), files.name)}".rstrip()


def comparison(known: list[Measured], library: str) -> str:
    """A sentence about what another library gave here, beside this one; empty if none was measured with equal work."""
    mine = {one.work: one.speed for one in known if one.library == library}
    for other in reversed(known):
        if other.library != library and other.work in mine:
            speed = mine[other.work]
            tokens, prompts = speed.decode_s / other.speed.decode_s, speed.prefill_s / other.speed.prefill_s
            return (
                f"{other.library} was measured here, too: it computes a token {tokens:.2f} times as fast, and a prompt "
                f"{prompts:.2f} times."
            )
    return ""
