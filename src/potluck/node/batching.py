"""Pure decisions about which waiting steps run in the next batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from potluck.node.cost import Cost


class Waiting(NamedTuple):
    """A step in the queue as batching sees it, with the rows that it has left to run."""

    session: int
    rows: int
    last: int
    small: bool


class Take(NamedTuple):
    """A number of rows of the step at this place in the queue."""

    place: int
    rows: int


def choose_batch(
    queue: Sequence[Waiting], limit: int, *, share: int, prompt_rows: int, prompts_turn: bool
) -> list[Take]:
    """The parts of `queue` (oldest first, not empty) that run together: at most `limit` rows, all of one `last`.

    Only the oldest step of each session may run. Small steps run whole, up to `share` of them. Prompts run in pieces of
    `prompt_rows`, and take turns with the small steps. prompts_turn: small steps have just had their turn.
    """
    oldest: dict[int, int] = {}
    for index, step in enumerate(queue):
        oldest.setdefault(step.session, index)
    small = [index for index in oldest.values() if queue[index].small]
    prompts = [index for index in oldest.values() if not queue[index].small]
    if small and not (prompts and prompts_turn):
        return _fill(queue, small[:share], limit)
    return _fill(queue, prompts, min(limit, prompt_rows))


def _fill(queue: Sequence[Waiting], indices: Sequence[int], limit: int) -> list[Take]:
    """The oldest step and others with the same `last`, as many as fit. Only a prompt may be cut."""
    taken: list[Take] = []
    for index in indices:
        step = queue[index]
        rows = min(step.rows, limit)
        if step.last == queue[indices[0]].last and (rows == step.rows or (rows and not step.small)):
            taken.append(Take(index, rows))
            limit -= rows
    return taken


def fair_share(generating: int, stages: int) -> int:
    """The number of generating sessions that may run at once on a route with this many stages.

    With all sessions in one batch, all stages but one would wait. So each stage has its share, and the shares
    circulate.
    """
    return max(1, -(-generating // stages))


def prompt_rows(prompts: Cost, turn_s: float, spare_s: float) -> int:
    """The rows of prompts in one forward pass while others generate, so that these wait no longer for prompts than they
    would if the prompts' sessions generated, too.

    turn_s: the seconds of one batch of tokens then. spare_s: those until the next token should be here.
    """
    return prompts.rows_within(turn_s + spare_s)
