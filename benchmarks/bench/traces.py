"""What a coordinator's trace says about a period: how full the batches were, and what was not computing."""

from __future__ import annotations

from collections import defaultdict
from typing import Any, NamedTuple

import httpx


class Batches(NamedTuple):
    """The means of the rows of a batch of generated tokens, and of those that could run together."""

    rows: float
    share: float


def hops_so_far(url: str) -> int:
    """The number of hops until now: a period begins."""
    return int(_trace(url, session=0)["count"])  # sessions count from 1: an empty timeline is enough here


def batches_since(url: str, begun: int) -> Batches:
    """How full the batches were since so many hops."""
    full = _trace(url, after=begun)["batches"]
    return Batches(full["rows"], full["share"])


def idle_since(url: str, begun: int) -> list[float]:
    """Of each hop of a generated token since so many hops, the seconds in which its stage did not compute it."""
    seconds: dict[tuple[int, int, int], float] = defaultdict(float)
    for event in _trace(url, after=begun)["traceEvents"]:
        if event["name"] in ("wire", "queue") and event["args"]["rows"] == 1:
            args = event["args"]
            seconds[event["pid"], args["session"], args["step"]] += event["dur"] / 1e6
    return list(seconds.values())


def _trace(url: str, **asked: int) -> dict[str, Any]:
    reply = httpx.get(f"{url}/trace", params=asked, timeout=60.0, trust_env=False)
    timeline: dict[str, Any] = reply.raise_for_status().json()
    return timeline
