"""Nodes on this machine that are bound to cores, have balanced spans and use a temporary cache."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from bench.engines import Engines
from potluck.coordinator.model_choice import usual_footprint
from potluck.local import LocalSwarm, Process
from potluck.models.sources import open_model
from potluck.models.spans import span_file_name
from potluck.platform import usable_cores
from potluck.types import Span

ROWS = 8
"""The rows of the batches for which spans are balanced."""


@contextmanager
def temporary_cache() -> Iterator[Path]:
    """A folder for what nodes download, which is removed at the end."""
    before = os.environ.get("POTLUCK_CACHE")
    with tempfile.TemporaryDirectory(prefix="potluck-benchmark-", ignore_cleanup_errors=True) as folder:
        os.environ["POTLUCK_CACHE"] = folder
        try:
            yield Path(folder)
        finally:
            os.environ.pop("POTLUCK_CACHE")
            if before is not None:
                os.environ["POTLUCK_CACHE"] = before


def pin(process: Process, index: int) -> None:
    """Bind a process, and all that it will start, to one core, if there are several and the system can do it."""
    own = psutil.Process(process.popen.pid)
    if hasattr(own, "cpu_affinity") and len(usable_cores()) > 1:
        own.cpu_affinity([usable_cores()[index % len(usable_cores())]])


def balanced_spans(model: Path, parts: int) -> list[Span]:
    """Spans that take about the same time for ROWS rows, each on one core of this machine.

    What plans know of the head's time is an estimate. Here it is measured, because only speeds are to be compared.
    """
    sizes = usual_footprint(open_model(model))
    halves = sizes.share(2)
    *layers, _ = sizes.costs
    with Engines(model, halves[-1:] if len(halves[-1]) > 1 else [Span(0, len(layers) - 1)], 1, ROWS) as engine:
        head = round(engine.head_layers(ROWS) * sum(layers) / len(layers))
    return sizes.cuts.split(parts, (*layers, head))


def add_pinned_nodes(swarm: LocalSwarm, model: Path, spans: Sequence[Span], urls: Sequence[str] = ()) -> dict[str, Any]:
    """Start a node with one thread for each span, each on a core of its own. Returns the status once all serve.

    urls: the address that each node dials, if that is not the coordinator's own.
    """
    for index, span in enumerate(spans):
        url = urls[index] if urls else None
        pin(
            swarm.add_node(str(span), "--threads", "1", "--model", str(model), "--name", f"layers {span}", url=url),
            index,
        )
    return swarm.wait_covered()


def forbid_optimised(path: Path, spans: Sequence[Span], cache: Path) -> None:
    """Note in a cache that only the plain layout works on this machine, so that nodes with this cache use it."""
    from potluck.node.loading import verdict_path

    manifest = open_model(path)
    for span in spans:
        verdict = verdict_path(cache / span_file_name(manifest, span))
        verdict.parent.mkdir(parents=True, exist_ok=True)
        verdict.write_text("plain")
