"""The structures that llama.cpp takes by value: a library whose fields lie elsewhere is refused before it is used."""

from __future__ import annotations

import ctypes
from typing import Any

import pytest

from potluck.errors import EngineError
from potluck.llama import library as loading
from potluck.llama.files import LibraryFiles, all_libraries, find_library
from potluck.llama.layouts import (
    LAYOUTS,
    Batch,
    Field,
    Layout,
    check_batch,
    check_defaults,
    layout_of,
    structure,
)
from potluck.llama.library import Llama, load

USED = {
    "model": ("n_gpu_layers", "load_mode", "progress_callback", "vocab_only", "use_extra_bufts"),
    "context": ("n_ctx", "n_threads", "flash_attn_type", "cb_eval", "type_k", "type_v", "no_perf"),
}
"""Fields that Potluck sets, from the front to the back of each structure. `kv_unified` is behind them: all that follows
is empty by default, so that a context is asked whether it took it (`engine/context.py`).
"""


def filled_in(fields: tuple[Field, ...]) -> Any:
    """What a library gives whose structure has these fields."""
    kind = structure("filled_in", fields)
    return kind(**{name: of(value) if value else of() for name, of, value in fields})


def as_seen(fields: tuple[Field, ...], given: Any) -> Any:
    """The bytes of what a library gave, taken for a structure with these fields."""
    return structure("seen", fields).from_buffer_copy(bytes(given) + bytes(64))


def moved(fields: tuple[Field, ...], name: str, kind: Any) -> tuple[Field, ...]:
    """The fields with one more of this kind before the named one."""
    at = [field for field, _, _ in fields].index(name)
    return (*fields[:at], ("new", kind, 0), *fields[at:])


def fields_of(layout: Layout) -> dict[str, tuple[Field, ...]]:
    return {"model": layout.model, "context": layout.context}


PLACES = [(layout, part, name) for layout in LAYOUTS for part, names in USED.items() for name in names]


@pytest.mark.parametrize(("layout", "part", "name"), PLACES, ids=lambda value: value if type(value) is str else "")
def test_a_structure_with_a_new_field_is_refused(layout: Layout, part: str, name: str) -> None:
    """Before any field that Potluck sets, whether it is as wide as a number or as a pointer, unless nothing moves."""
    fields = fields_of(layout)[part]
    check_defaults("a library", fields, as_seen(fields, filled_in(fields)))
    for kind in (ctypes.c_int32, ctypes.c_size_t):
        theirs = moved(fields, name, kind)
        given = filled_in(theirs)
        ours, real = structure("ours", fields), type(given)
        if all(getattr(ours, used).offset == getattr(real, used).offset for used in USED[part]):
            continue  # the new field lies in what was left empty between two others
        with pytest.raises(EngineError, match="is laid out in another way than its version says"):
            check_defaults("a library", fields, as_seen(fields, given))


def test_a_structure_without_one_of_the_fields_is_refused() -> None:
    """Of any field before the last that Potluck sets, except where its neighbour behind takes its place unchanged."""
    for layout in LAYOUTS:
        for part, fields in fields_of(layout).items():
            last = [name for name, _, _ in fields].index(USED[part][-1])
            for at in range(last):
                given = filled_in((*fields[:at], *fields[at + 1 :]))
                used = [name for name in USED[part] if name != fields[at][0]]
                ours = structure("ours", fields)
                if all(getattr(ours, name).offset == getattr(type(given), name).offset for name in used):
                    continue
                with pytest.raises(EngineError, match="is laid out in another way"):
                    check_defaults("a library", fields, as_seen(fields, given))


def test_a_batch_that_is_laid_out_otherwise_is_refused() -> None:
    numbers, pointers = (ctypes.c_int32 * 1)(), (ctypes.POINTER(ctypes.c_int32) * 1)()
    flags = (ctypes.c_int8 * 1)()
    batch = Batch(0, numbers, None, numbers, numbers, pointers, flags)
    check_batch("a library", batch)
    for wrong in (Batch(0, None, None, numbers, numbers, pointers, flags), Batch(0, numbers, None, numbers, numbers)):
        with pytest.raises(EngineError, match="llama_batch differs"):
            check_batch("a library", wrong)


class AsOtherVersion:
    """A loaded library that claims another version than it has."""

    def __init__(self, real: ctypes.CDLL, function: str, told: bytes) -> None:
        self._real, self._function = real, function
        self._text = ctypes.create_string_buffer(told)
        self._told = ctypes.CFUNCTYPE(ctypes.c_void_p)(lambda: ctypes.addressof(self._text))

    def __getattr__(self, name: str) -> Any:
        return self._told if name == self._function else getattr(self._real, name)


def claims(files: LibraryFiles, llama: str, ggml: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the library of these files say that it has these versions."""
    real = loading._open

    def opened(file: Any) -> Any:
        told = {files.llama: ("llama_version", llama), files.base: ("ggml_version", ggml)}.get(file)
        return AsOtherVersion(real(file), told[0], told[1].encode()) if told else real(file)

    monkeypatch.setattr(loading, "_open", opened)


def test_a_real_library_that_claims_another_layout_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    files = find_library()
    other = next(layout for layout in LAYOUTS if layout.versions != load().version)
    claims(files, *other.versions, monkeypatch)
    with pytest.raises(EngineError, match="is laid out in another way than its version says: llama_context_params"):
        Llama(files)


def test_an_unknown_version_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    claims(find_library(), "9.9.9", "0.99.0", monkeypatch)
    with pytest.raises(EngineError, match=r"does not know llama\.cpp 9\.9\.9 with ggml 0\.99\.0"):
        Llama(find_library())


def test_a_library_without_one_of_the_functions_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(loading._LLAMA, "llama_of_the_future", (None, []))
    with pytest.raises(EngineError, match="has no llama_of_the_future, so that Potluck cannot use it"):
        Llama(find_library())


def test_every_installed_library_is_in_the_table() -> None:
    checked = {name for layout in LAYOUTS for name in layout.checked}
    assert {library.name for library in all_libraries()} <= checked
    assert load().version in {layout.versions for layout in LAYOUTS}


def test_every_layout_has_a_version_of_its_own() -> None:
    assert len({layout.versions for layout in LAYOUTS}) == len(LAYOUTS)
    for layout in LAYOUTS:
        assert layout_of("a library", *layout.versions) is layout
        assert layout.checked
