"""Tells llama.cpp which part of a span lies on the graphics cards.

llama.cpp counts layers from the end of the model, and the head as the last of them. Tensors that stay behind within
these layers are named by patterns, as its options `--cpu-moe` and `--n-cpu-moe` do.
"""

from __future__ import annotations

import ctypes
from typing import Any

from potluck.errors import EngineError
from potluck.llama.devices import Device, cards
from potluck.llama.library import Llama
from potluck.types import Offload

_HEAD = r"^(output|token_embd)\."
"""The tensors of the head. llama.cpp takes the embedding once more where a model has none of its own."""


class _Override(ctypes.Structure):
    _fields_ = [("pattern", ctypes.c_char_p), ("buffers", ctypes.c_void_p)]


class Placement:
    """Says where the tensors of a span with so many layers lie. It must live until the model is loaded.

    Raises EngineError when something is to lie on a card, and there is none.
    """

    def __init__(self, library: Llama, offload: Offload, layers: int) -> None:
        handles = [card.handle for card in chosen(cards(library))] if offload else []
        if offload and not handles:
            raise EngineError("llama.cpp finds no graphics card: it may have been lost.")
        self._devices = (ctypes.c_void_p * (len(handles) + 1))(*handles, None)
        memory = library.function("ggml_backend_cpu_buffer_type", ctypes.c_void_p, [])()
        patterns = staying(offload, layers)
        self._overrides = (_Override * (len(patterns) + 1))(*(_Override(one.encode(), memory) for one in patterns))
        self._count = offload.layers + 1 if offload else 0

    def apply(self, params: Any) -> None:
        """Put it into `llama_model_params`. With no cards in the list, llama.cpp computes a CPU's bits."""
        params.devices = ctypes.cast(self._devices, ctypes.c_void_p)
        params.n_gpu_layers = self._count
        params.no_host = True  # pinned memory, which takes no optimised layouts, would only serve to copy weights
        params.tensor_buft_overrides = ctypes.cast(self._overrides, ctypes.c_void_p)


def chosen(found: list[Device]) -> list[Device]:
    """The cards to use: an integrated one only if there is no other, because it shares the machine's memory."""
    own = [card for card in found if card.kind == "card"]
    return own or found


def staying(offload: Offload, layers: int) -> list[str]:
    """The patterns of the tensors that stay behind in layers that are on the card."""
    if not offload:
        return []
    without = range(layers - offload.layers, layers - offload.experts)
    experts = [rf"^blk\.({'|'.join(map(str, without))})\..*_exps\."] if without else []
    return [*experts, *([] if offload.head else [_HEAD])]
