"""The llama.cpp library of this process: loaded once, checked, and called through ctypes.

`load` gives an object with the functions of llama.h, ggml.h and ggml-backend.h that Potluck uses, by their names there.
Their pointers are plain numbers here, except where arrays are passed.
"""

from __future__ import annotations

import ctypes
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from potluck.errors import EngineError
from potluck.llama.files import LibraryFiles, digest, find_library
from potluck.llama.layouts import (
    Batch,
    LogCallback,
    check_batch,
    check_defaults,
    layout_of,
    structure,
)
from potluck.platform import prepare_libraries

log = logging.getLogger(__name__)

FLASH_ATTENTION = 1
LOAD_COPY, LOAD_MAPPED = 0, 1
TYPE_F16, TYPE_Q8_0, TYPE_BF16 = 1, 8, 30
ROPE_WITH_SECTIONS = (8, 40)
"""`LLAMA_ROPE_TYPE_MROPE` and `LLAMA_ROPE_TYPE_IMROPE`."""
NO_VOCABULARY = 0
TOKEN_UNKNOWN, TOKEN_CONTROL, TOKEN_USER_DEFINED = 1 << 0, 1 << 3, 1 << 4
TOKEN_TAKES_LEFT, TOKEN_TAKES_RIGHT = 1 << 7, 1 << 8
_LOG_ERROR = 4

_P, _S, _Z = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t
_I, _U, _B = ctypes.c_int32, ctypes.c_uint32, ctypes.c_bool
_BYTES, _INTS = ctypes.POINTER(ctypes.c_uint8), ctypes.POINTER(ctypes.c_int32)

_Signature = tuple[Any, list[Any]]
_BASE: dict[str, _Signature] = {
    "ggml_version": (_S, []),
    "ggml_get_name": (_S, [_P]),
    "ggml_nbytes": (_Z, [_P]),
    "ggml_backend_tensor_get": (None, [_P, _P, _Z, _Z]),
    "ggml_backend_tensor_set": (None, [_P, _P, _Z, _Z]),
    "ggml_backend_dev_type": (ctypes.c_int, [_P]),
    "ggml_backend_dev_name": (_S, [_P]),
    "ggml_backend_dev_description": (_S, [_P]),
    "ggml_backend_dev_memory": (None, [_P, ctypes.POINTER(_Z), ctypes.POINTER(_Z)]),
    "ggml_backend_dev_backend_reg": (_P, [_P]),
    "ggml_backend_reg_get_proc_address": (_P, [_P, _S]),
}
_GGML: dict[str, _Signature] = {
    "ggml_backend_register": (None, [_P]),
    "ggml_backend_dev_count": (_Z, []),
    "ggml_backend_dev_get": (_P, [_Z]),
}
_LLAMA: dict[str, _Signature] = {
    "llama_version": (_S, []),
    "llama_backend_init": (None, []),
    "llama_log_set": (None, [LogCallback, _P]),
    "llama_print_system_info": (_S, []),
    "llama_supports_gpu_offload": (_B, []),
    "llama_batch_init": (Batch, [_I, _I, _I]),
    "llama_batch_free": (None, [Batch]),
    "llama_model_free": (None, [_P]),
    "llama_model_get_vocab": (_P, [_P]),
    "llama_model_n_embd": (_I, [_P]),
    "llama_model_n_head": (_I, [_P]),
    "llama_model_n_swa": (_I, [_P]),
    "llama_model_rope_type": (ctypes.c_int, [_P]),
    "llama_model_is_recurrent": (_B, [_P]),
    "llama_model_is_hybrid": (_B, [_P]),
    "llama_model_meta_val_str": (_I, [_P, _S, _P, _Z]),
    "llama_model_chat_template": (_S, [_P, _S]),
    "llama_free": (None, [_P]),
    "llama_n_ctx": (_U, [_P]),
    "llama_n_ctx_seq": (_U, [_P]),
    "llama_get_memory": (_P, [_P]),
    "llama_set_n_threads": (None, [_P, _I, _I]),
    "llama_attach_threadpool": (None, [_P, _P, _P]),
    "llama_decode": (_I, [_P, Batch]),
    "llama_get_logits": (ctypes.POINTER(ctypes.c_float), [_P]),
    "llama_state_seq_get_size": (_Z, [_P, _I]),
    "llama_state_seq_get_data": (_Z, [_P, _BYTES, _Z, _I]),
    "llama_state_seq_set_data": (_Z, [_P, _BYTES, _Z, _I]),
    "llama_memory_clear": (None, [_P, _B]),
    "llama_memory_seq_cp": (None, [_P, _I, _I, _I, _I]),
    "llama_memory_seq_rm": (_B, [_P, _I, _I, _I]),
    "llama_memory_seq_pos_min": (_I, [_P, _I]),
    "llama_vocab_type": (ctypes.c_int, [_P]),
    "llama_vocab_n_tokens": (_I, [_P]),
    "llama_vocab_bos": (_I, [_P]),
    "llama_vocab_eos": (_I, [_P]),
    "llama_vocab_get_add_bos": (_B, [_P]),
    "llama_vocab_is_eog": (_B, [_P, _I]),
    "llama_vocab_get_text": (_S, [_P, _I]),
    "llama_vocab_get_attr": (ctypes.c_int, [_P, _I]),
    "llama_tokenize": (_I, [_P, _S, _I, _INTS, _I, _B, _B]),
    "llama_token_to_piece": (_I, [_P, _I, _P, _I, _I, _B]),
}


def _log(level: int, text: bytes, _user_data: object) -> None:
    if level == _LOG_ERROR:  # 5 is the continuation of a line, of any level
        log.warning("llama.cpp: %s", text.decode("utf-8", "replace").strip())


_LOG_CALLBACK = LogCallback(_log)  # kept: the library holds only its address


class Llama:
    """A loaded library. files: where it lies. kernels: the plug-in for the CPU; None where that part is linked in.

    version, counts, last_outputs: as `layouts.Layout` has them.
    Raises EngineError when it cannot be loaded, or is not laid out as its version says.
    """

    def __init__(self, files: LibraryFiles, kernels: Path | None = None) -> None:
        self.files = files
        self.openmp = None if files.openmp is None else _open(files.openmp)
        # In this order each one finds what it needs by name, because it is loaded already.
        self._base = _open(files.base)
        self._cpu = None if files.cpu is None else _open(files.cpu)
        self._ggml, self._llama = _open(files.ggml), _open(files.llama)
        self._cards = list(files.cards)
        self._declared: dict[str, Any] = {}
        for library, functions in ((self._base, _BASE), (self._ggml, _GGML), (self._llama, _LLAMA)):
            self._declare(library, functions)
        layout = layout_of(files.name, self.llama_version().decode(), self.ggml_version().decode())
        self.version, self.counts = layout.versions, layout.counts
        self.last_outputs = layout.last_outputs
        model = structure("llama_model_params", layout.model)
        context = structure("llama_context_params", layout.context)
        self._declare(
            self._llama,
            {
                "llama_model_default_params": (model, []),
                "llama_context_default_params": (context, []),
                "llama_model_load_from_file": (_P, [_S, model]),
                "llama_init_from_model": (_P, [_P, context]),
            },
        )
        check_defaults(files.name, layout.model, self.llama_model_default_params())
        check_defaults(files.name, layout.context, self.llama_context_default_params())
        batch = self.llama_batch_init(1, 0, 1)
        check_batch(files.name, batch)
        self.llama_batch_free(batch)
        self.log_to()
        self.kernels = self._load_kernels(kernels)
        self.llama_backend_init()

    def _declare(self, library: ctypes.CDLL, functions: Mapping[str, _Signature]) -> None:
        for name, (result, arguments) in functions.items():
            try:
                function = getattr(library, name)
            except AttributeError as error:
                raise EngineError(f"{self.files.name} has no {name}, so that Potluck cannot use it.") from error
            function.restype, function.argtypes = result, arguments
            self._declared[name] = function

    def __getattr__(self, name: str) -> Any:
        declared: dict[str, Any] = self.__dict__.get("_declared", {})
        if name not in declared:
            raise AttributeError(name)
        return declared[name]

    def log_to(self, callback: Any = _LOG_CALLBACK) -> None:
        """Give llama.cpp's messages to this `LogCallback`, which the caller keeps; by default to `logging`."""
        self.llama_log_set(callback, None)

    def function(self, name: str, result: Any, arguments: list[Any]) -> Any:
        """A function that Potluck itself does not use, declared for a caller that does."""
        library = next(one for one in (self._base, self._ggml, self._llama) if hasattr(one, name))
        self._declare(library, {name: (result, arguments)})
        return self._declared[name]

    def _load_kernels(self, wanted: Path | None) -> Path | None:
        """The plug-in for the CPU that was loaded: the wanted one, or the first of those that this CPU can run."""
        if not self.files.kernels:
            return None
        for file in (wanted,) if wanted is not None else ranked_kernels(self.files):
            if self._load_plugin(file):
                return file
        raise EngineError(f"None of the CPU's kernels of {self.files.name} can be loaded on this CPU.")

    def load_cards(self) -> None:
        """Load the plug-ins for graphics cards, whose drivers may be missing."""
        while self._cards:
            self._load_plugin(self._cards.pop())

    def _load_plugin(self, file: Path) -> bool:
        """Load a backend. ggml's own loader takes a path in Windows' code page, which has not all of its characters."""
        try:
            begin = _open(file).ggml_backend_init
        except (EngineError, AttributeError) as error:
            log.info("The backend %s cannot be loaded: %s", file.name, error)
            return False
        begin.restype, begin.argtypes = _P, []
        registry = begin()
        if not registry:
            return False
        self.ggml_backend_register(registry)
        return True

    def has_openmp(self) -> bool:
        """Whether the CPU's part computes with OpenMP's threads."""
        return b"OPENMP = 1" in self.llama_print_system_info()

    def is_for_cards(self) -> bool:
        """Whether this very library was built for graphics cards; plug-ins are there for whoever has one."""
        return not self.files.cards and bool(self.llama_supports_gpu_offload())

    @property
    def build(self) -> str:
        """The SHA-256 of the files that decide over the last bits of what is computed."""
        return digest(self.files.computing(self.kernels))


def _open(file: Path) -> ctypes.CDLL:
    prepare_libraries()
    try:
        # Windows looks for what it needs beside the file itself only when asked to.
        return ctypes.CDLL(str(file), winmode=0x1100)  # elsewhere this has no meaning
    except OSError as error:
        raise EngineError(f"The library {file} cannot be loaded: {error}.") from error


def ranked_kernels(files: LibraryFiles) -> list[Path]:
    """The plug-ins for CPUs that say they can run on this one, the best first. What does not say comes last."""
    _open(files.base)  # which they need
    scores = {file: _score(file) for file in files.kernels}
    return sorted((file for file, score in scores.items() if score != 0), key=lambda file: -(scores[file] or 0.5))


def _score(file: Path) -> int | None:
    """How well the plug-in fits this CPU, by its own word; 0 means not at all, None that it has no word for it."""
    try:
        plugin = _open(file)
    except EngineError as error:
        log.warning("%s", error)
        return 0
    score = getattr(plugin, "ggml_backend_score", None)
    return None if score is None else int(score())


_loaded: list[Llama] = []


def load(kernels: Path | None = None) -> Llama:
    """The library of this process, loaded at the first call, which may say with which of several kernels for the CPU.

    Raises EngineError when there is none, or it cannot be used.
    """
    if not _loaded:
        _loaded.append(Llama(find_library(), kernels))
    return _loaded[0]


def kernels_to_try() -> list[Path]:
    """The plug-ins for the CPU with which this process can compute, the best first; none for a library without."""
    if _loaded:
        return [] if _loaded[0].kernels is None else [_loaded[0].kernels]
    return ranked_kernels(find_library())


def is_loaded() -> bool:
    return bool(_loaded)
