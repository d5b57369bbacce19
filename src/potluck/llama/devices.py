"""The devices that a loaded llama.cpp library can compute on."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from typing import Any, Literal

from msgspec import Struct

from potluck.errors import EngineError
from potluck.llama.library import Llama

Kind = Literal["card", "integrated card", "unified card"]

_CPU = 0
_KINDS: dict[int, Kind] = {1: "card", 2: "integrated card"}
"""The kinds of `enum ggml_backend_dev_type` that are cards; the others are the CPU and what helps it."""

_METAL = b"MTL"
"""The beginning of the names of Apple's GPUs, which ggml counts as cards."""


class Device(Struct, frozen=True):
    """A graphics card. free, total: bytes of its memory, which an integrated or unified card shares with the CPU.
    handle: ggml's own, valid in this process only.
    """

    name: str
    kind: Kind
    free: int
    total: int
    handle: int = 0


def cards(library: Llama) -> list[Device]:
    """The graphics cards that this library can compute on, after their plug-ins were loaded."""
    library.load_cards()
    kinds = [(handle, _KINDS.get(library.ggml_backend_dev_type(handle))) for handle in _handles(library)]
    return [_card(library, handle, kind) for handle, kind in kinds if kind is not None]


def cpu_function(library: Llama, name: str, result: Any, arguments: list[Any]) -> Any:
    """A function of the CPU's backend, which may be a plug-in. Raises EngineError when it has none of this name."""
    cpu = next(handle for handle in _handles(library) if library.ggml_backend_dev_type(handle) == _CPU)
    registry = library.ggml_backend_dev_backend_reg(cpu)
    address = library.ggml_backend_reg_get_proc_address(registry, name.encode())
    if not address:
        raise EngineError(f"{library.files.name} has no {name}, so that Potluck cannot use it.")
    return ctypes.CFUNCTYPE(result, *arguments)(address)


def _handles(library: Llama) -> Iterator[int]:
    return (library.ggml_backend_dev_get(index) for index in range(library.ggml_backend_dev_count()))


def _card(library: Llama, handle: int, kind: Kind) -> Device:
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    library.ggml_backend_dev_memory(handle, ctypes.byref(free), ctypes.byref(total))
    if library.ggml_backend_dev_name(handle).startswith(_METAL):
        kind = "unified card"
    name = library.ggml_backend_dev_description(handle).decode("utf-8", "replace")
    return Device(name, kind, free.value, total.value, handle)
