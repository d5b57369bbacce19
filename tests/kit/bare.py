"""A machine that cannot compile: a clone, and a PATH of nothing but what an installation takes."""

from __future__ import annotations

import os
import re
import shutil
import sys
from pathlib import Path

from kit.document_names import ROOT
from kit.processes import finish

PROGRAMS = ("make", "sh", "touch")
COMPILERS = ("cc", "gcc", "g++", "c++", "c99", "clang", "clang++", "cmake", "ninja", "ld", "as", "rustc", "cargo")

_OURS = re.compile(r"PYTHON\w*|VIRTUAL_ENV|MAKE\w*|MFLAGS|CMAKE_ARGS|POTLUCK_\w+|HF_\w+")


def clone(folder: Path) -> Path:
    """What is tracked, as it is in the working tree."""
    listed = finish("git", "ls-files", "-z", cwd=ROOT).stdout
    for name in filter(None, listed.split("\0")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    return folder


def strangers_environment(folder: Path) -> dict[str, str]:
    """Nothing of this run's Python and make. Potluck's files are in this folder; pip's cache stays."""
    kept = {name: value for name, value in os.environ.items() if not _OURS.fullmatch(name)}
    own = {"POTLUCK_DATA": str(folder / "data"), "POTLUCK_CACHE": str(folder / "cache")}
    return kept | own | {"PYTHONUNBUFFERED": "1"}


def bare_environment(folder: Path) -> dict[str, str]:
    """The same where there is no compiler, and where pip takes wheels only."""
    programs = folder / "programs"
    programs.mkdir()
    (programs / "python3").symlink_to(Path(sys.executable).resolve())
    for name in PROGRAMS:
        found = shutil.which(name)
        assert found is not None, name
        (programs / name).symlink_to(found)
    assert not any(shutil.which(name, path=str(programs)) for name in COMPILERS)
    return strangers_environment(folder) | {"PATH": str(programs), "PIP_ONLY_BINARY": ":all:"}
