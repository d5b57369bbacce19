"""Frozen values that all parts of Potluck share."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Sequence
from enum import StrEnum
from itertools import accumulate, combinations, pairwise
from math import inf
from typing import NamedTuple

from msgspec import Struct

from potluck.errors import SpanError, WireError

MAX_CANDIDATES = 256
"""The most candidate tokens that a last stage returns for one row, besides the ids that it was asked for."""


MAX_STEP_ROWS = 64
"""The most positions of a step, and of a node's batch. A longer prompt becomes several steps, which follow each other
through the stages. Larger steps are hardly faster, and make the next stage wait."""


SMALL_ROWS = 16
"""Steps up to this size are tokens that are being generated: someone watches them appear. A node computes batches of up
to this many rows on the thread that listens, and hears nothing in the meantime."""


MOST_POSITIONS = 1 << 20
"""The most positions of a node's KV cache, and so of a session."""


ANY_NUMBER = 1 << 30
"""More than there ever is of anything."""

LONGEST_LABEL = 64


def is_label(text: str) -> bool:
    """Whether the text is short and printable, because what strangers say of themselves is shown in tables and logs."""
    return text.isprintable() and len(text) <= LONGEST_LABEL


class Attention(StrEnum):
    """The kind of a swarm's KV caches, the same for all of its nodes.

    `exact`: results do not depend on batch mix, chunking or threads (q8_0 or bf16 cache).
    `fast`: an f16 cache with tiled kernels; long prompts are faster, bits may differ from run to run.
    """

    EXACT = "exact"
    FAST = "fast"


class RowFormat(StrEnum):
    """The format of hidden rows on the wire.

    `f32` is exact. `f16` halves the bytes, with a power-of-two scale for each row. `q8` nearly halves them again, with
    a scale for each 32 values.
    """

    F32 = "f32"
    F16 = "f16"
    Q8 = "q8"


class EngineKind(StrEnum):
    """The engine that runs the layers, the same for all nodes of a swarm."""

    LLAMACPP = "llamacpp"
    TRANSFORMERS = "transformers"


class Quantize(StrEnum):
    """The type that the matrices of a Hugging Face model get when a node loads them.

    The llama.cpp engine knows the GGUF types, the transformers engine weight-only int8 and int4, or none.
    """

    Q4_0 = "q4_0"
    Q8_0 = "q8_0"
    F16 = "f16"
    BF16 = "bf16"
    INT8 = "int8"
    INT4 = "int4"
    NONE = "none"


class Priority(StrEnum):
    """The urgency of a request. interactive: someone waits for it. batch: it runs whenever there is room to spare."""

    INTERACTIVE = "interactive"
    BATCH = "batch"


class Audience(StrEnum):
    """The people for whom a swarm is: those on this machine, those who have keys and invites, or everybody."""

    LOCAL = "local"
    PRIVATE = "private"
    OPEN = "open"


class NodeState(StrEnum):
    """The state of a node at the coordinator; docs/internals/states.md draws the transitions.

    stalled: it does not answer in time.
    leaving: it serves its sessions until others have taken them over. moving: likewise, and then it gets other layers.
    paused: its owner needs the machine for now. It keeps its layers.
    quarantined: it was caught computing something else than its layers, and is no longer used.
    """

    LOADING = "loading"
    READY = "ready"
    STALLED = "stalled"
    LEAVING = "leaving"
    MOVING = "moving"
    PAUSED = "paused"
    QUARANTINED = "quarantined"


class PauseReason(StrEnum):
    """The reason why a node pauses. The set is closed, because a node's own words would be shown to everybody."""

    OWNER = "its owner paused it"
    HOURS = "it is outside its hours"
    BUSY = "its owner uses the machine"
    BATTERY = "it runs on battery"


class Span(Struct, frozen=True, order=True):
    """Consecutive layers `first` … `last`, both included, counted from 0 as in the model."""

    first: int
    last: int

    def __post_init__(self) -> None:
        if not 0 <= self.first <= self.last:
            raise SpanError(f"{self.first}-{self.last} is not a span: write it as 12 or 12-15, counted from 0.")

    @classmethod
    def parse(cls, text: str) -> Span:
        """Parse `"12"` or `"12-15"`. Raises SpanError for anything else."""
        match = re.fullmatch(r"(\d{1,6})(?:-(\d{1,6}))?", text.strip())
        if match is None:
            raise SpanError(f"{text!r} is not a span: write it as 12 or 12-15, counted from 0.")
        first = int(match[1])
        return cls(first, int(match[2]) if match[2] else first)

    def within(self, layers: int) -> Span:
        """This span. Raises SpanError when a model with this many layers does not contain it."""
        if self.last >= layers:
            raise SpanError(f"Span {self} is outside the model: its layers are 0-{layers - 1}.")
        return self

    def __len__(self) -> int:
        return self.last - self.first + 1

    def __contains__(self, layer: object) -> bool:
        return isinstance(layer, int) and self.first <= layer <= self.last

    def __str__(self) -> str:
        return str(self.first) if self.first == self.last else f"{self.first}-{self.last}"


class Cuts(NamedTuple):
    """The places where a model may be cut into spans.

    points: 0, the layers at which spans may begin or before which they may end, and the number of all layers.
    forbidden: the numbers of layers that no span may have, unless it is the whole model.
    """

    points: tuple[int, ...]
    forbidden: frozenset[int] = frozenset()

    @classmethod
    def anywhere(cls, layers: int) -> Cuts:
        """The cuts of a model that may be cut between any two layers."""
        return cls(tuple(range(layers + 1)))

    @property
    def layers(self) -> int:
        return self.points[-1]

    def allows(self, span: Span) -> bool:
        return span.first in self.points and span.last + 1 in self.points and self._may_have(len(span))

    def _may_have(self, length: int) -> bool:
        return length not in self.forbidden or length == self.layers

    def check(self, span: Span) -> Span:
        """This span. Raises SpanError, with the nearest right ones, when it cannot be cut out of the model."""
        if not self.allows(span.within(self.layers)):
            near = " or ".join(map(str, self.nearest(span)))
            raise SpanError(f"Span {span} cannot be cut out of this model: take {near} instead.")
        return span

    def spans(self) -> list[Span]:
        """All spans that can be cut out, in the order of their first and then of their last layers."""
        pairs = combinations(self.points, 2)
        return [Span(first, end - 1) for first, end in pairs if self._may_have(end - first)]

    def nearest(self, span: Span) -> list[Span]:
        """The one or two spans that can be cut out and differ least from this one, in their ends and then in length."""

        def difference(one: Span) -> tuple[int, int]:
            ends = abs(one.first - span.first) + abs(one.last - span.last)
            return ends, abs(len(one) - len(span))

        return sorted(sorted(self.spans(), key=difference)[:2])

    def split(self, parts: int, costs: Sequence[int] = ()) -> list[Span]:
        """Cut the model into `parts` spans of costs that are as even as can be. Raises SpanError where it cannot be.

        The costliest span costs as little as possible, and then the squares of the costs are least. Of equally good
        ways, the one that is nearest to equal parts wins.
        costs: those of each layer and, if there is one more, of what follows the last one; empty if all layers are
        equal.
        """
        sums = [0, *accumulate(costs or [1] * self.layers)]
        sums[self.layers] = sums[-1]
        if parts < 1 or (most := self._least(parts, sums)) is None:
            raise SpanError(f"{self.layers} layers cannot be cut into {parts} spans.")
        # By where they end, ways to cut off some spans: the squares of their costs, how uneven they are, their cuts.
        ways: dict[int, tuple[int, int, tuple[int, ...]]] = {0: (0, 0, (0,))}
        for part in range(1, parts + 1):
            bound = sums[self.layers] * part // parts
            longer = [
                (squares + cost**2, away + abs(sums[end] - bound), (*cuts, end))
                for squares, away, cuts in ways.values()
                for end in self._ends(cuts[-1])
                if (cost := sums[end] - sums[cuts[-1]]) <= most
            ]
            ways = {way[-1][-1]: way for way in sorted(longer, reverse=True)}
        return [Span(first, end - 1) for first, end in pairwise(ways[self.layers][-1])]

    def _least(self, parts: int, sums: Sequence[int]) -> int | None:
        """The least that the costliest of so many spans can cost; None if the model cannot be cut into them.

        sums: what all layers before each place cost.
        """
        least = {0: 0}
        for _ in range(parts):
            longer = [
                (end, max(most, sums[end] - sums[start])) for start, most in least.items() for end in self._ends(start)
            ]
            least = dict(sorted(longer, reverse=True))
        return least.get(self.layers)

    def _ends(self, start: int) -> list[int]:
        """The places before which spans that begin here may end."""
        return [end for end in self.points[bisect_right(self.points, start) :] if self._may_have(end - start)]


def even_spans(layers: int, parts: int) -> list[Span]:
    """Cut `layers` layers into `parts` spans whose lengths differ by at most one."""
    if not 1 <= parts <= layers:
        raise SpanError(f"{layers} layers cannot be cut into {parts} spans.")
    bounds = [layers * part // parts for part in range(parts + 1)]
    return [Span(first, end - 1) for first, end in pairwise(bounds)]


def spans_of(layers: list[int]) -> list[Span]:
    """Combine ascending layer numbers into the fewest spans: `[0, 1, 5]` becomes 0-1 and 5."""
    spans: list[Span] = []
    for layer in layers:
        if spans and spans[-1].last == layer - 1:
            spans[-1] = Span(spans[-1].first, layer)
        else:
            spans.append(Span(layer, layer))
    return spans


class Offload(Struct, frozen=True):
    """What of a span lies on a graphics card: its last `layers` layers, the last `experts` of them with their experts,
    and the head if `head`. Whatever a layer on the card keeps of sessions lies there too.
    """

    layers: int = 0
    experts: int = 0
    head: bool = False

    def __bool__(self) -> bool:
        return self.layers > 0 or self.head


NO_OFFLOAD = Offload()
"""Nothing lies on a card."""


class Capacity(Struct, frozen=True):
    """The most that one engine can hold: `sessions`, `positions` (KV cells over all sessions), `rows` of a batch."""

    sessions: int
    positions: int
    rows: int


class GuesserOffer(Struct, frozen=True):
    """The small model with which a node offers to guess.

    name: the model's. context: the most tokens of an answer that it can follow. vocabulary: it has the ids below this.
    """

    name: str
    context: int
    vocabulary: int


class Coordinator(Struct, frozen=True, forbid_unknown_fields=True):
    """A coordinator of a fleet, as the others name it.

    url: the http(s) URL at which nodes dial it. key: its public key.
    """

    url: str
    key: bytes


class Speed(Struct, frozen=True):
    """The speed measured on the loaded span: seconds for one row through it, and per row in a large batch."""

    decode_s: float
    prefill_s: float


class Outlook(Struct, frozen=True, forbid_unknown_fields=True):
    """The rates that a swarm of certain nodes would give. missing: the layers that nobody serves.

    one_stream, many_streams: estimated tokens/s of one answer alone, and of as many as all nodes together carry; 0 if
    layers are missing.
    """

    missing: tuple[Span, ...]
    one_stream: float
    many_streams: float

    def __post_init__(self) -> None:
        if not all(0 <= rate < inf for rate in (self.one_stream, self.many_streams)):
            raise WireError("A swarm's outlook must be numbers of tokens a second.")


class Prospect(Struct, frozen=True, forbid_unknown_fields=True):
    """The outlook of a swarm without a node, and with it."""

    without: Outlook
    joined: Outlook


class Stage(Struct, frozen=True):
    """One hop of a route: `node` runs the layers of `span` (a prefix of the span that it serves).

    twin: the node's mark. A node that replaces it should compute the same bits.
    """

    node: str
    span: Span
    twin: str = ""
