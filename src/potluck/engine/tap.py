"""Copies one layer's output out of a running llama.cpp graph, and stops the graph there.

Some architectures change what enters their first layer, in a way that no metadata switch off. There the tap puts the
hidden rows in the place of what came of them.

llama.cpp's scheduler asks an evaluation callback about every graph node (31 for each layer). `_tap.c` answers in
nanoseconds. If it was not compiled, a Python callback does the same at about a microsecond for each answer.
"""

from __future__ import annotations

import ctypes
import importlib.util
from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np

from potluck.engine.base import Rows
from potluck.errors import EngineError
from potluck.llama.layouts import EvaluationCallback
from potluck.llama.library import load

_NAME_BYTES = 64  # GGML_MAX_NAME


class Tap(Protocol):
    @property
    def callback(self) -> Any:
        """The callback for `llama_context_params.cb_eval`, and its `user_data`."""

    @property
    def user_data(self) -> ctypes.c_void_p | None: ...

    def watch(self, node: str | None) -> None:
        """Stop the next graph after this node. None lets the graph run to its end."""

    def enter_at(self, node: str, rows: Rows) -> None:
        """Replace what graphs compute in this node by rows `[≥ n, d]`, which are read anew each time."""

    def rows(self, count: int, width: int) -> Rows:
        """A copy `[count, width]` of the last graph's output. Raises EngineError unless it gave exactly that."""


class PythonTap:
    user_data: ctypes.c_void_p | None = None

    def __init__(self, values: int) -> None:
        self._buffer = np.empty(values, np.float32)
        self._got = 0
        self._name: bytes | None = None
        self._entry, self._rows = b"", np.empty(0, np.float32)
        self._library = load()
        self.callback = EvaluationCallback(self._evaluate)

    def _evaluate(self, tensor: int, ask: bool, _user_data: object) -> bool:
        name, nbytes = self._library.ggml_get_name(tensor), self._library.ggml_nbytes(tensor)
        if ask:
            return name in (self._name, self._entry)
        if name == self._entry:
            self._library.ggml_backend_tensor_set(tensor, self._rows.ctypes.data, 0, min(nbytes, self._rows.nbytes))
            return True
        if nbytes <= self._buffer.nbytes:
            self._library.ggml_backend_tensor_get(tensor, self._buffer.ctypes.data, 0, nbytes)
            self._got = nbytes
        return False

    def watch(self, node: str | None) -> None:
        self._name = None if node is None else node.encode()
        self._got = 0

    def enter_at(self, node: str, rows: Rows) -> None:
        self._entry, self._rows = node.encode(), rows

    def rows(self, count: int, width: int) -> Rows:
        return _take(self._buffer, self._got, count, width)


class _State(ctypes.Structure):
    """The `struct tap` of `_tap.c`."""

    _fields_ = [
        ("name", ctypes.c_char * _NAME_BYTES),
        ("get_name", ctypes.c_void_p),
        ("nbytes", ctypes.c_void_p),
        ("tensor_get", ctypes.c_void_p),
        ("buffer", ctypes.c_void_p),
        ("capacity", ctypes.c_size_t),
        ("got", ctypes.c_size_t),
        ("entry", ctypes.c_char * _NAME_BYTES),
        ("tensor_set", ctypes.c_void_p),
        ("entering", ctypes.c_void_p),
        ("entering_bytes", ctypes.c_size_t),
    ]


class CompiledTap:
    def __init__(self, values: int, library: ctypes.CDLL) -> None:
        functions = load()
        self._buffer = np.empty(values, np.float32)
        self._state = _State(
            name=b"",
            get_name=ctypes.cast(functions.ggml_get_name, ctypes.c_void_p),
            nbytes=ctypes.cast(functions.ggml_nbytes, ctypes.c_void_p),
            tensor_get=ctypes.cast(functions.ggml_backend_tensor_get, ctypes.c_void_p),
            buffer=self._buffer.ctypes.data,
            capacity=self._buffer.nbytes,
            tensor_set=ctypes.cast(functions.ggml_backend_tensor_set, ctypes.c_void_p),
        )
        self.callback = EvaluationCallback(("potluck_tap", library))
        self.user_data: ctypes.c_void_p | None = ctypes.cast(ctypes.byref(self._state), ctypes.c_void_p)

    def watch(self, node: str | None) -> None:
        self._state.name = (node or "").encode()
        self._state.got = 0

    def enter_at(self, node: str, rows: Rows) -> None:
        self._entering = rows  # kept: the structure holds only its address
        self._state.entry, self._state.entering = node.encode(), rows.ctypes.data
        self._state.entering_bytes = rows.nbytes

    def rows(self, count: int, width: int) -> Rows:
        return _take(self._buffer, self._state.got, count, width)


def _take(buffer: Rows, got: int, count: int, width: int) -> Rows:
    if got != 4 * count * width:
        raise EngineError(f"llama.cpp gave {got} bytes of hidden rows where {4 * count * width} were expected.")
    return buffer[: count * width].reshape(count, width).copy()


def compiled_library() -> ctypes.CDLL | None:
    """The library of `_tap.c`; None where it is not compiled, or where it is of another version only."""
    return next(filter(None, map(_usable, _compiled_files())), None)


def _compiled_files() -> Iterator[str]:
    """What `make native` compiled, and what Potluck's own llama.cpp brings."""
    for package in ("potluck.engine", "potluck_llama"):
        if importlib.util.find_spec(package) and (spec := importlib.util.find_spec(f"{package}._tap")) and spec.origin:
            yield spec.origin


def _usable(file: str) -> ctypes.CDLL | None:
    library = ctypes.CDLL(file)
    size = getattr(library, "potluck_tap_size", None)
    if size is None:
        return None
    size.restype = ctypes.c_size_t
    return library if size() == ctypes.sizeof(_State) else None


def make_tap(values: int) -> Tap:
    """A tap that can hold this number of float32 values."""
    library = compiled_library()
    return PythonTap(values) if library is None else CompiledTap(values, library)
