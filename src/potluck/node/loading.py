"""Leads from a welcome to an engine: it downloads the span's weights into a span file, tries the file, and loads it."""

from __future__ import annotations

import logging
import platform
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

from potluck.engine.base import Engine
from potluck.engine.probe import Trial, survives
from potluck.errors import EngineError, ModelError
from potluck.llama.files import find_library
from potluck.models.files import Source
from potluck.models.gguf import layer_of
from potluck.models.kept import Kept
from potluck.models.manifest import Manifest
from potluck.models.peer_source import PeerSource
from potluck.models.sizes import kept_by
from potluck.models.sources import CoordinatorSource, local_source, open_model, weights_size
from potluck.models.spancache import SpanCache, Wanted, missing_bytes
from potluck.models.spanfile import Header, Piece, conversion_size, download_size
from potluck.models.spans import copied_ranges
from potluck.node.pages import collapse_large_mappings
from potluck.node.progress import Phase, Report, Reporter
from potluck.node.sharing import Offer
from potluck.types import MAX_STEP_ROWS, Capacity, EngineKind, Quantize
from potluck.wire.messages import Welcome

log = logging.getLogger(__name__)

_SESSIONS = 64
_FULL_SESSIONS = 8
"""The number of full-length sessions for which a node has KV cells if its memory allows."""

_OVERHEAD_BYTES = 256 << 20
_MOST_POSITIONS = 1 << 20
_ABOUT_A_POSITION = 320
"""The bytes for a position besides its keys and values: 60 about the cell, and in work buffers up to 4 for each row
of a batch, which say whether it sees the position. Those of the first session are part of the overhead.
"""

_CACHE = SpanCache(4)
"""Each file takes at most the memory that the owner offers."""


class Needs(NamedTuple):
    """The needs of a span. memory: bytes that it takes with its sessions. download: bytes of the model to fetch.

    Bytes that an interrupted run has left are counted, because they have yet to be verified. download is 0 if
    everything is here.
    """

    memory: int
    download: int


def model_digest(model: Path | None, reporter: Reporter) -> str:
    """The digest of the model on this machine, which is read through the first time; empty if there is none."""
    if model is None:
        return ""
    what = "Checking the model"
    progress = _Fraction(weights_size(model), partial(reporter.progress, what))
    digest = open_model(model, progress).digest
    reporter.progress(what, 1.0)
    return digest


@contextmanager
def opened(url: str, model: Path | None, welcome: Welcome) -> Iterator[tuple[Manifest, Source]]:
    """The manifest of the welcome's model, and the source of its tensors.

    Raises ModelError when it cannot be read or differs, SpanError when it has fewer layers, TicketExpired when the
    node's link is gone.
    """
    with _opened(url, model, welcome) as (manifest, source):
        if manifest.digest != welcome.model:
            raise ModelError(
                f"The manifest has the hash {manifest.digest[:16]}, the coordinator said {welcome.model[:16]}."
            )
        welcome.span.within(manifest.layers)
        yield manifest, source


def needs(manifest: Manifest, welcome: Welcome, memory: int) -> Needs:
    """The needs of the welcome's layers within `memory` bytes. Raises EngineError when they do not fit.

    The weights on disk are no larger than in memory, so that a coordinator cannot fill the disk either.
    """
    capacity, kept = plan_capacity(manifest, welcome, memory), _kept(manifest, welcome)
    states = capacity.sessions * kept.state
    taken = _weights(manifest, welcome).kept + capacity.positions * kept.cell + states
    if span_path(manifest, welcome).exists():
        return Needs(taken, 0)
    _, pieces = _plan(manifest, welcome)
    converting = _OVERHEAD_BYTES + conversion_size(pieces)
    if converting > memory:
        raise EngineError(
            f"Converting layers {welcome.span} needs {converting >> 20} MiB of memory; {memory >> 20} are offered: "
            "serve other layers, or offer more with --memory."
        )
    return Needs(taken, missing_bytes(_wanted(manifest, welcome)))


def fetch_span(manifest: Manifest, source: Source, welcome: Welcome, report: Report) -> Path:
    """The span file in this machine's cache.

    Raises ModelError when the bytes cannot be read or do not verify, TicketExpired when the node's link is gone.
    """
    wanted = _wanted(manifest, welcome)
    return _CACHE.fetch(wanted, source, _Fraction(download_size(wanted.plan()[1]), partial(report, Phase.FETCH)))


@contextmanager
def _opened(url: str, model: Path | None, welcome: Welcome) -> Iterator[tuple[Manifest, Source]]:
    if model is not None:
        yield open_model(model), local_source(model)
        return
    with closing(CoordinatorSource(url, welcome.ticket)) as coordinator:
        manifest = coordinator.manifest()
        if not welcome.peers:
            yield manifest, coordinator
            return
        with closing(PeerSource(coordinator, welcome.peers, welcome.peer_token)) as source:
            yield manifest, source


def _wanted(manifest: Manifest, welcome: Welcome) -> Wanted:
    return Wanted(manifest, welcome.span, welcome.engine, welcome.quantize)


def _plan(manifest: Manifest, welcome: Welcome) -> tuple[Header, list[Piece]]:
    return _wanted(manifest, welcome).plan()


def offer_span(manifest: Manifest, path: Path, welcome: Welcome) -> Offer:
    """The tensors that other nodes may have: those that are in the span file exactly as in the model's own files."""
    return Offer(path, copied_ranges(path, _plan(manifest, welcome)[1]), welcome.peer_token)


def span_path(manifest: Manifest, welcome: Welcome) -> Path:
    """The path of the span file on this machine."""
    return _wanted(manifest, welcome).path


class _Fraction:
    """Turns numbers of bytes into the fraction of all of them."""

    def __init__(self, total: int, report: Callable[[float], None]) -> None:
        self._total = total
        self._done = 0
        self._report = report

    def __call__(self, nbytes: int) -> None:
        self._done += nbytes
        self._report(min(1.0, self._done / max(1, self._total)))


def load_span(
    manifest: Manifest, path: Path, welcome: Welcome, memory: int, threads: int, report: Report
) -> tuple[Engine, str]:
    """The engine, and the weight layout that it uses ("optimised", "plain", or the device for transformers).

    Raises EngineError when the span does not fit into `memory` bytes or cannot run here.
    """
    capacity = plan_capacity(manifest, welcome, memory)
    if welcome.engine is EngineKind.TRANSFORMERS:
        return _load_transformers(manifest, path, welcome, capacity, threads, report)
    optimised = _is_safe(_trial(manifest, path, welcome, threads, extra_buffers=True), report)
    trial = _trial(manifest, path, welcome, threads, extra_buffers=optimised)
    engine = trial.load(capacity, partial(report, Phase.LOAD))
    collapse_large_mappings()
    return engine, "optimised" if optimised else "plain"


def _load_transformers(
    manifest: Manifest, path: Path, welcome: Welcome, capacity: Capacity, threads: int, report: Report
) -> tuple[Engine, str]:
    try:
        from potluck.engine.transformers import TransformersEngine, best_device
        from potluck.engine.weights import RawWeights
    except ModuleNotFoundError as error:
        raise EngineError("This swarm runs the transformers engine: run pip install 'potluck[hf]' first.") from error
    quantize = {Quantize.INT8: "int8", Quantize.INT4: "int4"}.get(welcome.quantize)
    engine = TransformersEngine(
        manifest.metadata["config"],
        RawWeights(path),
        span=welcome.span,
        capacity=capacity,
        threads=threads,
        quantize=quantize,  # type: ignore[arg-type]
        progress=partial(report, Phase.LOAD),
    )
    return engine, str(best_device())


def _trial(manifest: Manifest, path: Path, welcome: Welcome, threads: int, *, extra_buffers: bool) -> Trial:
    return Trial(str(path), welcome.span, manifest.layers, welcome.attention, threads, extra_buffers)


def _is_safe(trial: Trial, report: Report) -> bool:
    """Whether this machine's optimised weight layout survives. This is tried once for each span file and library."""
    verdict = verdict_path(Path(trial.path))
    if verdict.exists():
        return verdict.read_text() == "optimised"
    progress = partial(report, Phase.TRY)
    safe = survives(trial, progress)
    if not safe:
        log.warning(
            "llama.cpp's optimised weight layout crashes on this machine. The node uses the plain one, which is slower."
        )
        plain = Trial(trial.path, trial.span, trial.layers, trial.attention, trial.threads, False)
        if not survives(plain, progress):
            raise EngineError(f"llama.cpp crashes on layers {trial.span} on this machine with either weight layout.")
    verdict.write_text("optimised" if safe else "plain")
    return safe


def verdict_path(span_file: Path) -> Path:
    """The path of the note that says with which weight layout the span file runs: "optimised" or "plain"."""
    return span_file.with_suffix(f".{find_library().stamp}-{platform.machine()}.layout")


def plan_capacity(manifest: Manifest, welcome: Welcome, memory: int) -> Capacity:
    """The room for several sessions of full length, or for as many as fit into `memory` bytes beside the weights.

    Raises EngineError when not even one session fits, or when loading takes more than that.
    """
    span, context = welcome.span, welcome.context
    if not 1 <= context <= min(manifest.context, _MOST_POSITIONS):
        raise EngineError(f"The coordinator asks for sessions of {context} positions, which this model cannot have.")
    weights, kept = _weights(manifest, welcome), _kept(manifest, welcome)
    session, room = max(1, kept.of(context)), memory - weights.kept
    if room < max(session, weights.staged):
        needed = weights.kept + max(session, weights.staged)
        raise EngineError(
            f"Layers {span} with {context} positions need {needed >> 20} MiB of memory; {memory >> 20} are offered: "
            "serve fewer layers, or offer more with --memory."
        )
    fitting = room * context // (session + context * _ABOUT_A_POSITION)
    positions = max(context, min(fitting, _FULL_SESSIONS * context, _MOST_POSITIONS))
    return Capacity(_states(kept, room, positions), positions, MAX_STEP_ROWS)


def _states(kept: Kept, room: int, positions: int) -> int:
    """The sessions whose states fit into `room` bytes beside so many positions."""
    if not kept.state:
        return _SESSIONS
    left = room - positions * (kept.cell + _ABOUT_A_POSITION)
    return max(1, min(_SESSIONS, left // kept.state))


class _Weights(NamedTuple):
    """The bytes that a span takes without sessions. staged: what loading takes besides, for its largest tensor."""

    kept: int
    staged: int


def _weights(manifest: Manifest, welcome: Welcome) -> _Weights:
    _, pieces = _plan(manifest, welcome)
    sizes = {piece.name: piece.nbytes for piece in pieces}
    is_staged = welcome.engine is EngineKind.LLAMACPP
    staged = max((size for name, size in sizes.items() if is_staged and layer_of(name) is not None), default=0)
    return _Weights(sum(sizes.values()) + _OVERHEAD_BYTES, staged)


def _kept(manifest: Manifest, welcome: Welcome) -> Kept:
    """What the span's layers keep together."""
    layers = kept_by(manifest, welcome.engine, welcome.attention)[welcome.span.first : welcome.span.last + 1]
    return Kept(sum(layer.cell for layer in layers), sum(layer.state for layer in layers))
