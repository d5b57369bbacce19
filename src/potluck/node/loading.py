"""Leads from a welcome to an engine: it downloads the span's weights into a span file, tries the file, and loads it."""

from __future__ import annotations

import logging
import platform
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

import msgspec

from potluck.engine.base import Engine
from potluck.engine.probe import Trial, survives
from potluck.errors import CardLost, EngineError, ModelError
from potluck.llama.files import find_library
from potluck.llama.library import kernels_to_try
from potluck.models.files import Source
from potluck.models.manifest import Manifest
from potluck.models.peer_source import PeerSource
from potluck.models.sources import CoordinatorSource, local_source, open_model, weights_size
from potluck.models.spancache import SpanCache, Wanted, missing_bytes
from potluck.models.spanfile import Header, Piece, conversion_size, download_size
from potluck.models.spans import copied_ranges
from potluck.node.pages import collapse_large_mappings
from potluck.node.progress import Phase, Report, Reporter
from potluck.node.room import OVERHEAD_BYTES, Plan, Room, plan_room
from potluck.node.sharing import Offer
from potluck.types import Capacity, EngineKind, Offload, Quantize
from potluck.wire.messages import Welcome

log = logging.getLogger(__name__)

_CACHE = SpanCache(4)
"""Each file takes at most the memory that the owner offers."""


class Needs(NamedTuple):
    """The needs of a span. memory, card: bytes that it takes with its sessions. download: bytes of the model to fetch.

    Bytes that an interrupted run has left are counted, because they have yet to be verified. download is 0 if
    everything is here.
    """

    memory: int
    card: int
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


def needs(manifest: Manifest, welcome: Welcome, room: Room) -> Needs:
    """The needs of the welcome's layers within this room. Raises EngineError when they do not fit.

    The weights on disk are no larger than in memory, so that a coordinator cannot fill the disk either.
    """
    plan = plan_room(manifest, welcome, room)
    if span_path(manifest, welcome).exists():
        return Needs(plan.memory, plan.card, 0)
    _, pieces = _plan(manifest, welcome)
    converting = OVERHEAD_BYTES + conversion_size(pieces)
    if converting > room.memory:
        raise EngineError(
            f"Converting layers {welcome.span} needs {converting >> 20} MiB of memory; {room.memory >> 20} are "
            "offered: serve other layers, or offer more with --memory."
        )
    return Needs(plan.memory, plan.card, missing_bytes(_wanted(manifest, welcome)))


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
    manifest: Manifest, path: Path, welcome: Welcome, room: Room, threads: int, report: Report
) -> tuple[Engine, str]:
    """The engine, and the weight layout that it uses ("optimised", "plain", or the device for transformers), with what
    lies on a graphics card.

    A card that does not hold its part gets less of the span, and at last nothing. Raises CardLost when the rest does
    not fit beside such a card, and another EngineError when the span does not fit into the room or cannot run here.
    """
    if welcome.engine is EngineKind.TRANSFORMERS:
        plan = plan_room(manifest, welcome, room)
        return _load_transformers(manifest, path, welcome, plan.capacity, threads, report)
    for step in room.steps():
        plan = _plan_step(manifest, welcome, room, step)
        trial = Trial(str(path), welcome.span, manifest.layers, welcome.attention, threads, True, plan.offload)
        if not plan.offload:
            break
        try:
            return _load_on_card(msgspec.structs.replace(trial, capacity=plan.capacity), report)
        except EngineError:
            log.warning(
                "The graphics card cannot take %s of layers %s: less is tried.", _part(plan.offload), welcome.span
            )
    trial = _surviving(trial, report)
    engine = _load(trial, plan.capacity, report)
    return engine, _layout(trial)


def _plan_step(manifest: Manifest, welcome: Welcome, room: Room, step: Room) -> Plan:
    """The plan for this room, or for a step of it after its card has failed. Raises as `load_span` does."""
    try:
        return plan_room(manifest, welcome, step)
    except EngineError as error:
        if step == room:
            raise
        raise CardLost(f"The graphics card cannot take its part of layers {welcome.span}, and {error}") from error


def _load_on_card(trial: Trial, report: Report) -> tuple[Engine, str]:
    """Load the trial with the layout that survives beside a card.

    A card is tried anew each time, because other programs use it as well, and what it says is no verdict for the CPU.

    Raises EngineError when none survives.
    """
    for tried in _tries(trial):
        if survives(tried, partial(report, Phase.TRY)):
            return _load(tried, trial.capacity, report), f"{_layout(tried)}, {_part(trial.offload)} on a card"
    raise EngineError(f"llama.cpp crashes on layers {trial.span} with {_part(trial.offload)} on a graphics card.")


def load_file(trial: Trial, capacity: Capacity, report: Report) -> Engine:
    """The engine of a trial's file, loaded in the fastest way that survives. Raises EngineError when none does."""
    return _load(_surviving(trial, report), capacity, report)


def _load(trial: Trial, capacity: Capacity, report: Report) -> Engine:
    engine = trial.load(capacity, partial(report, Phase.LOAD))
    collapse_large_mappings()
    return engine


def _layout(trial: Trial) -> str:
    return "optimised" if trial.extra_buffers else "plain"


def _part(offload: Offload) -> str:
    """What lies on a card, in words."""
    head = ["the head"] if offload.head else []
    layers = [f"{offload.layers} {'layer' if offload.layers == 1 else 'layers'}"] if offload.layers else []
    without = offload.layers - offload.experts
    return " and ".join([*layers, *head]) + (f" without the experts of {without}" if without else "")


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


def _surviving(trial: Trial, report: Report) -> Trial:
    """The trial with the kernels and the weight layout that survive on this machine, the fastest first.

    This is tried once for each span file and library. Raises EngineError when none survives.
    """
    known = _judged(trial)
    if known is not None:
        return known
    for tried in _tries(trial):
        if survives(tried, partial(report, Phase.TRY)):
            _note_verdict(tried)
            return tried
        log.warning("llama.cpp crashes on this machine with %s: slower ones are tried.", _way(tried))
    raise EngineError(f"llama.cpp crashes on layers {trial.span} on this machine with either weight layout.")


def _tries(trial: Trial) -> list[Trial]:
    """The trial in every way that can be tried: the plain weight layout is slower than any kernels' optimised one."""
    kernels = [str(file) for file in kernels_to_try()] or [""]
    return [
        msgspec.structs.replace(trial, extra_buffers=optimised, kernels=one)
        for optimised in (True, False)
        for one in kernels
    ]


def _way(trial: Trial) -> str:
    kernels = f"the kernels {Path(trial.kernels).name} and " if trial.kernels else ""
    return f"{kernels}the {_layout(trial)} weight layout"


def _judged(trial: Trial) -> Trial | None:
    """The trial in the way that was found to survive before; None if that is not known, or cannot be done any more."""
    verdict = verdict_path(Path(trial.path))
    if not verdict.exists():
        return None
    layout, _, name = verdict.read_text().partition(" ")
    return next((one for one in _tries(trial) if (_layout(one), Path(one.kernels).name) == (layout, name)), None)


def _note_verdict(trial: Trial) -> None:
    verdict_path(Path(trial.path)).write_text(f"{_layout(trial)} {Path(trial.kernels).name}".rstrip())


def verdict_path(span_file: Path) -> Path:
    """The path of the note that says how the span file runs: "optimised" or "plain", and with which kernels."""
    return span_file.with_suffix(f".{find_library().stamp}-{platform.machine()}.layout")
