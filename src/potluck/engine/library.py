"""The llama.cpp library that this process uses: where it lies and which one it is. Nothing is loaded to tell."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import sys
from functools import cache
from importlib.metadata import version
from pathlib import Path


def library_folder() -> Path:
    """The folder of llama-cpp-python's own libraries, or the one that LLAMA_CPP_LIB_PATH names in their place."""
    if named := os.environ.get("LLAMA_CPP_LIB_PATH"):
        return Path(named)
    spec = importlib.util.find_spec("llama_cpp")
    assert spec is not None, "Potluck depends on llama-cpp-python."
    assert spec.origin is not None
    return Path(spec.origin).parent / "lib"


def library_version() -> str:
    """Names llama-cpp-python and the kernels it was built with, for probe verdicts and bug reports."""
    stamp = max((int(file.stat().st_mtime) for file in library_folder().iterdir()), default=0)
    return f"{version('llama_cpp_python')}-{stamp}-{sys.platform}"


@cache
def kernels_digest() -> str:
    """The SHA-256 of the compiled kernels, which decide over the last bits of what is computed."""
    digest = hashlib.sha256()
    for library in sorted({file.resolve() for file in library_folder().glob("*ggml*")}):
        digest.update(library.read_bytes())
    return digest.hexdigest()
