"""A program that loads the llama.cpp library and reports what it is, as JSON in the last line of its output."""

from __future__ import annotations

import sys

import llama_cpp
import llama_cpp.llama_cpp as c
import msgspec

from potluck.engine import ggml
from potluck.engine.library import kernels_digest
from potluck.engine.library_report import Library, parse_kernels
from potluck.engine.llamacpp import start_library
from potluck.engine.tap import compiled_library

_DIGITS = 16


def report() -> Library:
    start_library()
    return Library(
        package=llama_cpp.__version__,
        ggml=ggml.version(),
        digest=kernels_digest()[:_DIGITS],
        kernels=parse_kernels(c.llama_print_system_info().decode()),
        for_gpus=bool(c.llama_supports_gpu_offload()),
        gpus=tuple(ggml.gpus()),
        compiled_tap=compiled_library() is not None,
    )


if __name__ == "__main__":
    sys.stdout.write(f"\n{msgspec.json.encode(report()).decode()}\n")
