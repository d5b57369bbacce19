"""Makes the small model that guesses for the model that is served, or says why it cannot."""

from __future__ import annotations

import sys
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import msgspec
import psutil

from potluck.coordinator.generation.guesser_process import GuesserProcess
from potluck.coordinator.generation.small_model import SmallModel
from potluck.coordinator.model_choice import choose_engine, footprint, most_context
from potluck.coordinator.text.children import ChildEncoder
from potluck.coordinator.text.opening import open_tokenizer
from potluck.coordinator.text.tokenizer import Tokenizer
from potluck.coordinator.text.vocabularies import pieces
from potluck.errors import ModelError
from potluck.models.manifest import Manifest
from potluck.models.sources import Found, local_source
from potluck.models.spancache import SpanCache, Wanted
from potluck.models.spans import most_forgotten
from potluck.planning.cost import in_mib
from potluck.types import MAX_STEP_ROWS, Capacity, EngineKind, Quantize, Span
from potluck.wire.guessing import Order
from potluck.wire.vocabulary import check_vocabulary

_PROGRAM = "potluck.node.guesser"
"""The program of its process. It runs the engine, which the coordinator itself never loads."""

_THREADS = 1
"""Guesses are made while the nodes compute, some of them perhaps on this machine."""

_SESSIONS = 16
_FULL_SESSIONS = 4
"""The answers that it has in mind, and how many of them may have the full length, where the memory allows."""

_CACHE = SpanCache(1)


@dataclass(frozen=True)
class Small:
    """A small model on this machine. context: the most tokens of an answer that it can follow. pieces: what its tokens
    stand for.
    """

    outline: Manifest
    found: Found
    quantize: Quantize
    context: int
    pieces: list[bytes]

    @property
    def vocabulary(self) -> int:
        """The ids below this may be read and guessed."""
        return min(self.outline.vocabulary, len(self.pieces))


def check_guesser(found: Found) -> tuple[Manifest, Quantize]:
    """The outline of a model that may guess, and its quantization, for which no weights are read.

    Raises ModelError, with the reason, when it cannot guess for any model.
    """
    outline = found.outline()
    engine, quantize = choose_engine(outline, EngineKind.LLAMACPP, None, tries=True)
    if not most_forgotten(outline, engine):
        raise ModelError(
            f"{outline.name} cannot guess, because a model with a recurrent state cannot take back what it has read."
        )
    return outline, quantize


def make_guesser(found: Found, served: Manifest, tokenizer: Tokenizer, context: int) -> GuesserProcess:
    """What guesses for the model that is served. Its weights are fetched.

    tokenizer, context: those of the model that is served.

    Raises ModelError when the small model cannot guess for this one, or not on this machine.
    """
    small = open_small(found)
    check_vocabulary(small.outline.name, small.pieces, served.name, pieces(tokenizer))
    order = order_for(small, _THREADS, context, min(served.vocabulary, tokenizer.vocabulary))
    model = SmallModel(small.outline.name, context=min(small.context, context), vocabulary=order.vocabulary)
    return GuesserProcess(model, command(order))


def open_small(found: Found) -> Small:
    """The small model, of which only the vocabulary is read.

    Raises ModelError when it cannot guess for any model.
    """
    outline, quantize = check_guesser(found)
    with closing(ChildEncoder(found.path, 1)):  # hostile files end this child, before they are read here
        tokenizer = open_tokenizer(found.path)
    return Small(outline, found, quantize, most_context(outline), pieces(tokenizer))


def order_for(small: Small, threads: int, context: int, vocabulary: int) -> Order:
    """The order for its process. Its weights are fetched. context, vocabulary: those of the model that is served.

    Raises ModelError when it cannot run on this machine.
    """
    capacity = _capacity(small.outline, small.quantize, min(small.context, context))
    manifest = small.found.manifest()
    span = Span(0, manifest.layers - 1)
    file = _fetch(small.found, Wanted(manifest, span, EngineKind.LLAMACPP, small.quantize))
    return Order(str(file), manifest.layers, capacity, threads, min(vocabulary, small.vocabulary))


def command(order: Order) -> list[str]:
    """What runs the process of a small model."""
    return [sys.executable, "-m", _PROGRAM, msgspec.json.encode(order).decode()]


def _fetch(found: Found, wanted: Wanted) -> Path:
    """The file of the whole model on this machine."""
    if found.hub is None:
        return _CACHE.fetch(wanted, local_source(found.path), lambda _: None)
    with closing(found.hub):
        return _CACHE.fetch(wanted, found.hub, lambda _: None)


def _capacity(outline: Manifest, quantize: Quantize, context: int) -> Capacity:
    """Room for several answers of full length, or for as many as fit. Raises ModelError when not even one fits."""
    sizes = footprint(outline, EngineKind.LLAMACPP, quantize, context)
    one, needed = sum(sizes.cache), sizes.of(Span(0, outline.layers - 1))
    free = int(psutil.virtual_memory().available)
    if needed > free:
        raise ModelError(
            f"{outline.name} needs {in_mib(needed)} MiB of memory to guess, and {free >> 20} are free here."
        )
    full = min(_FULL_SESSIONS, 1 + (free - needed) // 2 // max(1, one))
    return Capacity(_SESSIONS, full * context, MAX_STEP_ROWS)
