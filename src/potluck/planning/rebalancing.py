"""Decides whether a machine should leave its layers for others. Pure."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
from msgspec import Struct

from potluck.planning.cost import Footprint
from potluck.planning.machine import Machine, Placed
from potluck.planning.merit import best_options, outcomes
from potluck.planning.options import Floats, Options
from potluck.types import Span

MARGIN = 1.2
"""A move must raise the bottleneck by this factor, because it costs a download, and costs sessions their route."""


class Move(Struct, frozen=True):
    """The machine of this name should serve `span` instead of its own."""

    name: str
    span: Span


def choose_move(footprint: Footprint, placed: Sequence[Placed], movable: Collection[str]) -> Move | None:
    """The move that helps most among the machines named in `movable`, if one helps clearly.

    A move helps clearly if it covers layers that nobody serves, or raises the bottleneck by MARGIN. A machine that
    moves serves nothing in the meantime, so others must serve everything that it leaves. Moves come to an end, because
    each of them covers more or multiplies the bottleneck.
    """
    options = Options(footprint)
    gains = options.gains([one.machine for one in placed], options.numbers([one.span for one in placed]))
    rates, servers = gains.sum(axis=0), (gains > 0).sum(axis=0)
    best, mover = (int((rates > 0).sum()), MARGIN * float(rates.min())), -1
    for index, one in enumerate(placed):
        if one.machine.name in movable and servers[one.span.first : one.span.last + 1].min() > 1:
            reached = _reach(options, rates - gains[index], one.machine, best)
            if reached > best:
                best, mover = reached, index
    if mover < 0:
        return None
    machine = placed[mover].machine
    # Not by a difference: it would not be exactly 0 where nobody else serves.
    [option] = best_options(options, np.delete(gains, mover, axis=0).sum(axis=0), [machine])
    return Move(machine.name, options.span(option))


def _reach(options: Options, others: Floats, machine: Machine, best: tuple[int, float]) -> tuple[int, float]:
    """The layers covered, and the bottleneck, if the machine does what it can besides the others.

    others: what they give each layer. Returns (0, 0) at once if no option covers all layers that are below the best so
    far.
    """
    fitting = options.fitting(machine)
    if best[1]:
        slow = np.flatnonzero(others < best[1])
        fitting = fitting[(options.first[fitting] <= slow[0]) & (slow[-1] <= options.last[fitting])]
    if not len(fitting):
        return 0, 0.0
    covered, bottleneck = outcomes(options, fitting, others, options.rates(machine, fitting))
    most = covered.max()
    return int(most), float(bottleneck[covered == most].max())
