"""Nodes on this machine that are bound to cores, have balanced spans and use a temporary cache."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil

from potluck.local import LocalSwarm, Process
from potluck.models.sources import open_model
from potluck.models.spans import span_file_name
from potluck.node.hardware import usable_cores
from potluck.types import Span, even_spans

HEAD_LAYERS = 3.5
"""Measured for SmolLM2 on one core, 8 rows at a time: its vocabulary is large for so small a model."""


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


def balanced_spans(layers: int, parts: int) -> list[Span]:
    """Spans that take about the same time per token, when the head takes as long as HEAD_LAYERS layers."""
    share = (layers + HEAD_LAYERS) / parts
    cuts = [0, *(round(share * part) for part in range(1, parts)), layers]
    return [Span(first, end - 1) for first, end in pairwise(cuts)]


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


def forbid_optimised(path: Path, nodes: int, cache: Path) -> None:
    """Note in a cache that only the plain layout works on this machine, so that nodes with this cache use it."""
    from potluck.node.loading import verdict_path

    manifest = open_model(path)
    for span in even_spans(manifest.layers, nodes):
        verdict = verdict_path(cache / span_file_name(manifest, span))
        verdict.parent.mkdir(parents=True, exist_ok=True)
        verdict.write_text("plain")
