"""The engine seam, behind which a span runs. The engine knows nothing about frames, sampling or tokenization.

Shapes: n rows of one segment, w of them wanted, d the hidden size, V the vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from potluck.errors import EngineError
from potluck.types import Capacity, Span

Tokens = npt.NDArray[np.int32]
Rows = npt.NDArray[np.float32]
Progress = Callable[[float], None]
"""Receives the fraction, 0 … 1, that is done."""


def ignore(_fraction: float) -> None:
    """Ignore the progress."""


@dataclass(frozen=True, slots=True, eq=False)
class Segment:
    """`n` consecutive positions of one session.

    data: token ids `[n]` int32 for a span that starts at layer 0, otherwise hidden rows `[n, d]` float32.
    position: that of the first row; it must equal the session's length so far (0 for a new session).
    last: the layer after which to stop, in the model's numbering.
    wanted: how many of the last rows want logits, when `last` is the model's last layer.
    """

    session: int
    position: int
    data: Tokens | Rows
    last: int
    wanted: int = 0

    @property
    def rows(self) -> int:
        return len(self.data)


Output = Rows
"""The output of one segment: hidden rows `[n, d]`, or, after the model's last layer, raw logits `[w, V]`."""


class Engine(Protocol):
    """Runs one span for many sessions. Not thread-safe: one call at a time."""

    @property
    def span(self) -> Span: ...

    @property
    def hidden_size(self) -> int: ...

    @property
    def vocabulary(self) -> int: ...

    @property
    def layers(self) -> int:
        """The number of layers of the whole model."""

    @property
    def capacity(self) -> Capacity: ...

    @property
    def build(self) -> str:
        """Everything that decides over the last bits besides weights and inputs, equal for engines with equal bits.

        It is empty if the engine does not promise bits.
        """

    def forward(self, batch: Sequence[Segment]) -> list[Output]:
        """Run all segments in one pass and append their rows to the sessions' KV.

        All segments share `last`; at most `capacity.rows` rows and one segment a session.
        Raises CapacityError when the KV cache has no room, EngineError when the span cannot be run. Nothing is changed
        then, but sessions with a recurrent state may be forgotten.
        """

    def must_arrange(self, lengths: Mapping[int, int]) -> bool:
        """Whether a forward after which these sessions hold so many positions would first arrange the memory anew.

        That may take a second, even for one row.
        """

    def use_cores(self, cores: Sequence[int]) -> None:
        """Compute the next forwards with one thread on each of these CPUs, as the system numbers them."""

    def rest(self) -> None:
        """Let go of the helper threads that the calling thread's forwards keep, and of the CPUs that it is bound to.

        Call this before forwards continue on another thread: OpenMP keeps a pool for each caller, and with more threads
        than cores it stops spinning at its barriers, which halves the speed of everything.
        """

    @property
    def sessions(self) -> int:
        """The number of sessions that the engine holds."""

    def length(self, session: int) -> int:
        """The number of positions that this session holds; 0 for an unknown session."""

    def truncate(self, session: int, length: int) -> None:
        """Forget the session's positions from `length` on. Raises EngineError when the engine cannot do this."""

    def close(self, session: int) -> None:
        """Forget the session. Unknown sessions are ignored."""

    def export(self, session: int) -> bytes:
        """The session's keys and values, for `restore` of an engine with the same span and twin mark.

        Raises EngineError when the engine cannot do this, or does not hold the session.
        """

    def restore(self, session: int, state: bytes) -> None:
        """Hold what another engine has exported, in place of what is held of the session.

        Raises EngineError, and holds nothing of the session, when these are not the keys and values of a session of
        this span.
        """

    def unload(self) -> None:
        """Free the weights; the engine cannot be used afterwards."""


def check_batch(engine: Engine, batch: Sequence[Segment]) -> None:
    """Raises EngineError for a batch that breaks the contract of `Engine.forward`."""
    rows = sum(segment.rows for segment in batch)
    if not all(segment.rows for segment in batch) or not 1 <= rows <= engine.capacity.rows:
        raise EngineError(f"A batch of 1 to {engine.capacity.rows} rows was expected, not {rows}.")
    if len({segment.session for segment in batch}) < len(batch):
        raise EngineError("A batch may hold only one segment of a session.")
    for segment in batch:
        _check_segment(engine, segment, batch[0].last)


def _check_segment(engine: Engine, segment: Segment, last: int) -> None:
    if segment.last != last or last not in engine.span:
        raise EngineError(f"Layers {engine.span} cannot stop after layer {segment.last} in this batch.")
    held = engine.length(segment.session)
    if segment.position != held:
        raise EngineError(f"Position {segment.position} does not follow the {held} held.")
    if not 0 <= segment.wanted <= segment.rows:
        raise EngineError(f"Logits of {segment.wanted} out of {segment.rows} rows cannot be had.")
    if engine.span.first == 0:
        if not 0 <= int(segment.data.min()) <= int(segment.data.max()) < engine.vocabulary:
            raise EngineError(f"A token id lies outside the vocabulary of {engine.vocabulary}.")
    elif segment.data.shape[1:] != (engine.hidden_size,):
        raise EngineError(f"Hidden rows of {engine.hidden_size} values were expected, not {segment.data.shape[1:]}.")
