"""Finds out from the hops of a trace how full the batches were. Pure: times come in."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import NamedTuple

from msgspec import Struct

from potluck.coordinator.relay.trace import Hop

_PAUSE_S = 0.25
"""A session whose next step is sent later than this was not generating meanwhile: its client was slow to read, or a
node was lost. While a session generates, the coordinator sends its next step within milliseconds.
"""


class Batch(NamedTuple):
    """One forward pass of a node for generated tokens: its sessions, and the number of rows that could run together."""

    sessions: frozenset[int]
    share: int

    @property
    def rows(self) -> int:
        return len(self.sessions)


class Fullness(Struct, frozen=True):
    """How full some batches were: their number, and the means of their rows and of the rows that could run together."""

    count: int
    rows: float
    share: float


def fullness(batches: Sequence[Batch]) -> Fullness | None:
    """None if there are no batches."""
    if not batches:
        return None
    return Fullness(len(batches), fmean(one.rows for one in batches), fmean(one.share for one in batches))


def sentence(full: Fullness | None) -> str:
    """A sentence for the owner of a swarm; empty if no two rows could run together."""
    if full is None or full.share == 1:
        return ""
    rows, share = (f"{round(mean, 1):g}" for mean in (full.rows, full.share))
    return f"A batch holds {rows} {'row' if rows == '1' else 'rows'} of {share} that could run together."


def batches(hops: Iterable[Hop]) -> list[Batch]:
    """The batches of generated tokens that all nodes computed. hops: those of all sessions, as they ended.

    Those that could run together are the fair share of the sessions that were generating at this node when the batch
    began: with all of them in one batch, all stages of the route but one would wait. If more did run together, they
    could.
    """
    tokens = [hop for hop in hops if hop.rows == 1 and not hop.void]
    crowds = _crowds(tokens)
    found = []
    for members in _passes(tokens):
        first = next(iter(members.values()))
        generating = crowds[first.node].at(first.received - first.shares[1])
        share = -(-generating // first.stages)
        found.append(Batch(frozenset(members), max(share, len(members))))
    return found


def _passes(hops: Iterable[Hop]) -> list[dict[int, Hop]]:
    """The hops of each forward pass of a node by their sessions, in the order in which they ended.

    All steps of one pass are told the same time of computation, to the last bit, and each was sent before any of them
    came back. Two passes may take equally long, but not at the same time on one node.
    """
    latest: dict[tuple[str, float], tuple[float, dict[int, Hop]]] = {}
    passes = []
    for hop in hops:
        ended, members = latest.get((hop.node, hop.compute_s), (hop.sent, {}))
        if hop.sent >= ended or hop.session in members:
            members = {}
            latest[hop.node, hop.compute_s] = hop.received, members
            passes.append(members)
        members[hop.session] = hop
    return passes


class _Crowd(NamedTuple):
    """The moments at which sessions began to generate at a node, and those at which they ceased, in order."""

    begins: list[float]
    ends: list[float]

    def at(self, moment: float) -> int:
        """The number of sessions that were generating at this moment."""
        return bisect_right(self.begins, moment) - bisect_left(self.ends, moment)


def _crowds(hops: Iterable[Hop]) -> Mapping[str, _Crowd]:
    """The crowd of each node."""
    sessions: dict[int, list[Hop]] = defaultdict(list)
    for hop in hops:
        sessions[hop.session].append(hop)
    crowds: dict[str, _Crowd] = defaultdict(lambda: _Crowd([], []))
    for run in (run for own in sessions.values() for run in _runs(own)):
        for node in {hop.node for hop in run}:
            crowds[node].begins.append(run[0].sent)
            crowds[node].ends.append(max(hop.received for hop in run))
    for crowd in crowds.values():
        crowd.begins.sort()
        crowd.ends.sort()
    return crowds


def _runs(hops: Iterable[Hop]) -> list[list[Hop]]:
    """The hops of one session, cut where it paused."""
    runs: list[list[Hop]] = []
    end = float("-inf")
    for hop in sorted(hops, key=lambda hop: hop.sent):
        if hop.sent > end + _PAUSE_S:
            runs.append([])
        runs[-1].append(hop)
        end = max(end, hop.received)
    return runs
