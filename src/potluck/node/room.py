"""Plans how a span and its sessions share a node's memory and its graphics cards."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from msgspec import Struct, structs

from potluck.errors import EngineError
from potluck.models.gguf import layer_of
from potluck.models.kept import Kept
from potluck.models.manifest import Manifest
from potluck.models.sizes import is_of_experts, kept_by
from potluck.models.spancache import Wanted
from potluck.models.spanfile import Piece
from potluck.models.spans import EMBEDDING, HEAD
from potluck.planning.cost import in_mib
from potluck.planning.offload import CARD_RESERVE_BYTES, Division, Parts
from potluck.types import MAX_STEP_ROWS, MOST_POSITIONS, NO_OFFLOAD, Capacity, EngineKind, Offload
from potluck.wire.messages import Welcome

_SESSIONS = 64
_FULL_SESSIONS = 8
"""The number of full-length sessions for which a node has KV cells if its memory allows."""

OVERHEAD_BYTES = 256 << 20
ABOUT_A_POSITION = 320
"""The bytes for a position besides its keys and values: 60 about the cell, and in work buffers up to 4 for each row
of a batch, which say whether it sees the position. Those of the first session are part of the overhead.
"""


class Room(Struct, frozen=True):
    """What a node's owner offers, in bytes. card: the memory of graphics cards, which is a part of `memory` if the card
    `shares` it.
    """

    memory: int
    card: int = 0
    shares: bool = False

    def steps(self) -> Iterator[Room]:
        """This room, then with half of the card, and so on, and at last without a card."""
        card = self.card
        while card > CARD_RESERVE_BYTES:
            yield structs.replace(self, card=card)
            card //= 2
        yield structs.replace(self, card=0)


class Plan(NamedTuple):
    """How a span and its sessions are held. memory, card: the bytes that they take."""

    capacity: Capacity
    offload: Offload
    memory: int
    card: int


def plan_room(manifest: Manifest, welcome: Welcome, room: Room) -> Plan:
    """The plan for several sessions of full length, or for as many as fit beside the weights.

    Raises EngineError when not even one session fits, or when loading takes more than that.
    """
    context = welcome.context
    if not 1 <= context <= min(manifest.context, MOST_POSITIONS):
        raise EngineError(f"The coordinator asks for sessions of {context} positions, which this model cannot have.")
    sizes = _Sizes(manifest, welcome, room)
    sizes.check()
    most = min(_FULL_SESSIONS * context, MOST_POSITIONS)
    # The most positions that fit. If more of them push a layer off the card, the next number may need less.
    low, high = context, most + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if sizes.fit(middle) else (low, middle)
    return sizes.plan(low)


class _Sizes:
    """The bytes of a welcome's span, as they share a room."""

    def __init__(self, manifest: Manifest, welcome: Welcome, room: Room) -> None:
        _, pieces = Wanted(manifest, welcome.span, welcome.engine, welcome.quantize).plan()
        self._welcome, self._room = welcome, room
        self._layers = kept_by(manifest, welcome.engine, welcome.attention)[welcome.span.first : welcome.span.last + 1]
        self._weights = sum(piece.nbytes for piece in pieces) + OVERHEAD_BYTES
        offloads = welcome.engine is EngineKind.LLAMACPP
        in_layers = [piece for piece in pieces if layer_of(piece.name) is not None] if offloads else []
        self._staged = max((piece.nbytes for piece in in_layers), default=0)
        self._card = room.card if offloads else 0
        self._dense, self._experts = [0] * len(self._layers), [0] * len(self._layers)
        for piece in in_layers:
            (self._experts if is_of_experts(piece.name) else self._dense)[layer_of(piece.name) or 0] += piece.nbytes
        is_last = welcome.span.last == manifest.layers - 1
        self._head = _head(pieces) if is_last else None

    def check(self) -> None:
        """Raises EngineError when not even one session fits."""
        division = self._divided(self._welcome.context)
        session = max(1, self._of(self._in_memory(division), self._welcome.context))
        needed = self._left(division) + max(session, self._staged)
        if needed > self._room.memory:
            beside = f" beside {self._card >> 20} of graphics cards" if self._card and not self._room.shares else ""
            raise EngineError(
                f"Layers {self._welcome.span} with {self._welcome.context} positions need {in_mib(needed)} MiB of "
                f"memory{beside}; {self._room.memory >> 20} are offered: serve fewer layers, or offer more with "
                "--memory."
            )

    def fit(self, positions: int) -> bool:
        """Whether so many positions fit, with the states of the sessions of full length that they are."""
        division, context = self._divided(positions), self._welcome.context
        session = max(1, self._of(self._in_memory(division), context)) + context * ABOUT_A_POSITION
        return positions * session <= (self._room.memory - self._left(division)) * context

    def plan(self, positions: int) -> Plan:
        division = self._divided(positions, shares=True)
        kept = self._in_memory(division)
        cell, state = sum(one.cell for one in kept), sum(one.state for one in kept)
        offload = self._offload(division)
        sessions = _SESSIONS
        if any(one.state for one in self._layers):
            left = self._room.memory - self._left(division) - positions * (cell + ABOUT_A_POSITION)
            # The card has room for the states of as many sessions of full length as there are positions for.
            most = positions // self._welcome.context if offload else _SESSIONS
            sessions = max(1, min(most, left // state if state else most))
        memory = self._left(division) + positions * cell + sessions * state
        card = int(division.card[0]) + CARD_RESERVE_BYTES if offload else 0
        return Plan(Capacity(sessions, positions, MAX_STEP_ROWS), offload, memory, card)

    def _divided(self, positions: int, shares: bool = False) -> Division:
        """The span divided beside so many positions. shares: also for a card that shares the memory, of which whatever
        lies on it takes as much.
        """
        context = self._welcome.context
        cache = [-(-one.of(context) * positions // context) for one in self._layers]
        card = self._card if shares or not self._room.shares else 0
        head = 0 if self._head is None else self._head.nbytes
        return Parts(self._dense, self._experts, cache).divide(
            np.array([0]), np.array([len(self._layers)]), np.array([head]), card
        )

    def _left(self, division: Division) -> int:
        """The weights in the machine's memory, with the overhead. An embedding that is also the head stays there."""
        if self._room.shares:
            return self._weights
        moved = sum(self._dense) + sum(self._experts) - int(division.weights[0])
        has_own = self._head is not None and self._head.name == HEAD
        return self._weights - moved - int(division.head[0]) * has_own

    def _in_memory(self, division: Division) -> tuple[Kept, ...]:
        """What the layers in the machine's memory keep."""
        return self._layers if self._room.shares else self._layers[: int(division.layers[0])]

    def _offload(self, division: Division) -> Offload:
        count, head = len(self._layers), bool(division.head[0])
        offload = Offload(count - int(division.layers[0]), count - int(division.experts[0]), head)
        return offload or NO_OFFLOAD

    @staticmethod
    def _of(kept: tuple[Kept, ...], context: int) -> int:
        return sum(one.of(context) for one in kept)


def _head(pieces: list[Piece]) -> Piece | None:
    """The head, or the embedding that llama.cpp takes once more in its place."""
    named = {piece.name: piece for piece in pieces}
    return named.get(HEAD) or named.get(EMBEDDING)
