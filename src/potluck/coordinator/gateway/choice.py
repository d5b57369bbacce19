"""Chooses the model whose layers a newcomer serves, where several models are served."""

from __future__ import annotations

from collections.abc import Sequence

from potluck.coordinator.gateway.gate import Gate
from potluck.coordinator.gateway.lending import Home, anew, prospects
from potluck.coordinator.swarm.events import Joined
from potluck.errors import Refused
from potluck.planning.choice import most_helped

_SHOWN = 64
"""The most characters that are repeated of what a node says."""


def chosen(gates: Sequence[Gate], joined: Joined) -> Home:
    """The home of this node: the model that it names, that it has, or whose layers it holds; or else the one where it
    helps most.

    Raises Refused, with the reason, when it can join none.
    """
    hello = joined.hello
    if hello.holds and hello.movable and all(gate.swarm.digest != hello.holds for gate in gates):
        joined = anew(joined)  # layers of a model that is not served here
    elif hello.holds and not hello.serves:
        gates = [gate for gate in gates if gate.swarm.digest == hello.holds] or gates
    if hello.serves:
        gates = [gate for gate in gates if hello.serves in gate.names] or _none(gates, hello.serves)
    elif hello.model and len(gates) > 1:
        gates = [gate for gate in gates if gate.swarm.digest == hello.model] or gates
    if len(gates) == 1:
        return Home(gates[0], joined)
    if hello.guesser is not None:
        raise Refused(f"Name the model for which this node guesses, with --model: {_names(gates)}.")
    if hello.span is not None and not hello.movable:
        raise Refused(f"Name the model whose layers {hello.span} are meant, with --model: {_names(gates)}.")
    found = prospects(gates, joined)
    if not found:
        gates[0].prospect(joined)  # which says why it cannot join
    return Home(found[most_helped([prospect for _, prospect in found])][0], joined)


def _none(gates: Sequence[Gate], name: str) -> Sequence[Gate]:
    verb = "is" if len(gates) == 1 else "are"
    raise Refused(f"The model {name[:_SHOWN]!r} is not served here; {_names(gates)} {verb}.")


def _names(gates: Sequence[Gate]) -> str:
    return ", ".join(repr(gate.name) for gate in gates)
