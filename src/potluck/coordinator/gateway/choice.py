"""Chooses the model whose layers a newcomer serves, where several models are served."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn

from potluck.coordinator.gateway.acceptance import accepts, anew
from potluck.coordinator.gateway.gate import Gate
from potluck.coordinator.gateway.home import Home
from potluck.coordinator.gateway.lending import prospects
from potluck.coordinator.swarm.events import Joined
from potluck.errors import Refused
from potluck.planning.choice import most_helped

_SHOWN = 64
"""The most characters that are repeated of what a node says."""


def chosen(gates: Sequence[Gate], joined: Joined) -> Home | None:
    """The home of this node: the model that it names, that it has, or whose layers it holds; or else the one where it
    helps most. None if it is to wait until somebody asks for a model that is only offered.

    Raises Refused, with the reason, when it can join none.
    """
    hello, every = joined.hello, gates
    gates = accepted = [gate for gate in gates if accepts(joined, gate)]
    if not accepted:
        _refuse(every, hello.serves)
    if hello.holds and hello.movable and all(gate.swarm.digest != hello.holds for gate in gates):
        joined = anew(joined)  # layers of a model that is not served here
    elif hello.holds and not hello.serves:
        gates = [gate for gate in gates if gate.swarm.digest == hello.holds] or gates
    if hello.model and not hello.serves and len(gates) > 1:
        gates = [gate for gate in gates if gate.swarm.digest == hello.model] or gates
    named, gates = len(gates) == 1, [gate for gate in gates if _is_open(gate, joined)]
    if not gates and hello.guesser is not None:
        raise Refused(f"Nobody has asked for {accepted[0].name} yet, so there is nothing to guess.")
    if not gates:
        return None
    if named:
        return Home(gates[0], joined)
    if hello.guesser is not None:
        raise Refused(f"Name the model for which this node guesses, with --model: {_names(gates)}.")
    if hello.span is not None and not hello.movable:
        raise Refused(f"Name the model whose layers {hello.span} are meant, with --model: {_names(gates)}.")
    found = prospects(gates, joined)
    if not found and len(gates) < len(accepted):
        return None  # it may be able to serve one of the others
    if not found:
        gates[0].prospect(joined)  # which says why it cannot join
    return Home(found[most_helped([prospect for _, prospect in found])][0], joined)


def _is_open(gate: Gate, joined: Joined) -> bool:
    """Whether the node may join at once. Offered models are open to nodes that hold them, and while they lack layers
    that somebody awaits.
    """
    hello, digest = joined.hello, gate.swarm.digest
    holds = digest in (hello.holds, hello.model) or hello.serves in gate.names
    return gate.demand.always or (digest != "" and (holds or gate.lacks))


def _refuse(gates: Sequence[Gate], name: str) -> NoReturn:
    """Refuse a node that may serve none of these models. name: the one that it names."""
    if not name:
        raise Refused(
            "Models are loaded here only when somebody asks for them: join with --any to serve any of them, or name "
            f"one with --model: {_names(gates)}."
        )
    verb = "is" if len(gates) == 1 else "are"
    raise Refused(f"The model {name[:_SHOWN]!r} is not served here; {_names(gates)} {verb}.")


def _names(gates: Sequence[Gate]) -> str:
    return ", ".join(repr(gate.name) for gate in gates)
