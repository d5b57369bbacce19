"""ggml, the library under llama.cpp: the parts of it that llama-cpp-python does not wrap."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from functools import cache

from potluck.engine.library import library_folder
from potluck.engine.library_report import Gpu
from potluck.errors import EngineError

_GPU, _INTEGRATED_GPU = 1, 2  # of `enum ggml_backend_dev_type`; the others are the CPU and what helps it


def load(name: str) -> ctypes.CDLL:
    """One of the libraries that llama-cpp-python loads, such as `ggml-base`. Raises EngineError when it is missing."""
    folder = library_folder()
    for pattern in (f"lib{name}.so", f"lib{name}.dylib", f"{name}.dll", f"lib{name}.*"):
        for file in folder.glob(pattern):
            return ctypes.CDLL(str(file))
    raise EngineError(f"llama-cpp-python has no {name} library in {folder}.")


@cache
def base() -> ctypes.CDLL:
    """The library with ggml's tensors and backends, with declarations of the functions that are used here."""
    library = load("ggml-base")
    library.ggml_version.restype = ctypes.c_char_p
    library.ggml_get_name.argtypes, library.ggml_get_name.restype = [ctypes.c_void_p], ctypes.c_char_p
    library.ggml_nbytes.argtypes, library.ggml_nbytes.restype = [ctypes.c_void_p], ctypes.c_size_t
    for name in ("ggml_backend_tensor_get", "ggml_backend_tensor_set"):
        function = getattr(library, name)
        function.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t]
        function.restype = None
    library.ggml_backend_dev_type.argtypes = [ctypes.c_void_p]
    library.ggml_backend_dev_description.argtypes = [ctypes.c_void_p]
    library.ggml_backend_dev_description.restype = ctypes.c_char_p
    sizes = [ctypes.POINTER(ctypes.c_size_t)] * 2
    library.ggml_backend_dev_memory.argtypes, library.ggml_backend_dev_memory.restype = [ctypes.c_void_p, *sizes], None
    return library


def version() -> str:
    return str(base().ggml_version().decode())


def gpus() -> list[Gpu]:
    """The GPUs that this build of the library can compute on."""
    return [_gpu(handle) for handle in _handles() if base().ggml_backend_dev_type(handle) in (_GPU, _INTEGRATED_GPU)]


def _handles() -> Iterator[int]:
    registry = load("ggml")
    registry.ggml_backend_dev_count.restype = ctypes.c_size_t
    registry.ggml_backend_dev_get.argtypes = [ctypes.c_size_t]
    registry.ggml_backend_dev_get.restype = ctypes.c_void_p
    return (registry.ggml_backend_dev_get(index) for index in range(registry.ggml_backend_dev_count()))


def _gpu(handle: int) -> Gpu:
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    base().ggml_backend_dev_memory(handle, ctypes.byref(free), ctypes.byref(total))
    name = base().ggml_backend_dev_description(handle).decode("utf-8", "replace")
    return Gpu(name, free.value, total.value)
