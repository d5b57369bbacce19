"""The drawings of docs/internals/states.md are the state machines' own: each is taken through all of its events."""

from __future__ import annotations

import ast
import copy
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import potluck
from potluck.coordinator.swarm.events import (
    BecameReady,
    Event,
    Joined,
    Leaves,
    Left,
    Pauses,
    Progressed,
    Quarantined,
    Rebalance,
    Resized,
    Resumes,
    Revived,
    Stalled,
)
from potluck.coordinator.swarm.node import Node
from potluck.coordinator.swarm.swarm import Swarm
from potluck.errors import WireError
from potluck.planning.cost import RESERVE_BYTES, Footprint
from potluck.types import Capacity, NodeState, PauseReason, Span, Speed
from potluck.wire.messages import Hello, Ready

PAGE = Path(__file__).parent.parent / "docs" / "internals" / "states.md"
SOURCE = Path(potluck.__file__).parent

START = END = "[*]"
ANY = "any"
Arrow = tuple[str, str, str]
"""(from, word, to)"""

READY = Ready(Capacity(8, 100, 64), Speed(0.01, 0.001), "twin", "plain")
LOOKS = 3
"""So many times in a row a move must look right."""


def drawn(text: str, heading: str, states: set[str]) -> set[Arrow]:
    """The arrows of the drawing under this heading; those from `any` begin at all states but the one they lead to."""
    [block] = re.findall(rf"^## {heading}\n.*?^```mermaid\n(.*?)^```", text, re.MULTILINE | re.DOTALL)[:1]
    arrows = re.findall(r"^ +(\S+) --> (\S+): (.+)$", block, re.MULTILINE)
    return {
        (begin, word, end)
        for source, end, words in arrows
        for begin in (states - {end} if source == ANY else {source})
        for word in words.split(", ")
    }


def tabled(text: str, heading: str) -> set[str]:
    """The states of the first table under this heading."""
    [section] = re.findall(rf"^## {heading}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    return set(re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE))


# A node.

OTHER_WORDS = {"_move": "its sessions are gone", "_keep_needed": "needed again"}
"""For what changes a node's state besides its own events: the functions that do so."""


def full_swarm() -> Swarm:
    """Layers 0-2 have two nodes, of which `mover` may move and holds a session; 3-5 have none any more."""
    swarm = Swarm("d" * 64, Footprint((1,) * 6, 0, 0))
    for name, span, movable in [("mover", "0-2", True), ("fixed", "0-2", False), ("late", "3-5", False)]:
        swarm.handle(Joined(name, Hello(name, "0.1", "", Span.parse(span), RESERVE_BYTES + 3, 1, movable)))
        swarm.handle(BecameReady(name, READY))
    assert swarm.kv_budget.reserve(1, 10) is not None
    swarm.handle(Left("late"))
    return swarm


def events_of(node: str) -> list[Event]:
    """One of each kind that is about a node."""
    return [
        Progressed(node, 0.5),
        BecameReady(node, READY),
        Resized(node, 2),
        Left(node),
        Stalled(node, "it is silent"),
        Revived(node),
        Leaves(node),
        Pauses(node, PauseReason.OWNER),
        Resumes(node),
        Quarantined(node, b"k", "its rows were wrong"),
    ]


def things_that_happen() -> Iterator[Callable[[Swarm], object]]:
    for event in [*events_of("mover"), *events_of("fixed")]:
        yield lambda swarm, event=event: swarm.handle(event)  # type: ignore[misc]
    yield lambda swarm: [swarm.handle(Rebalance()) for _ in range(LOOKS)]
    yield lambda swarm: swarm.release(1)


def summary(swarm: Swarm) -> object:
    """What tells two swarms apart here."""
    return {name: (node.state, node.span, sorted(node.reserved)) for name, node in swarm.nodes.items()}


def reachable(start: Swarm, happen: Callable[[Swarm], Iterator[Swarm]]) -> None:
    """Visit all swarms that can come of this one."""
    seen, waiting = [summary(start)], [start]
    while waiting:
        for swarm in happen(waiting.pop()):
            if (told := summary(swarm)) not in seen:
                seen.append(told)
                waiting.append(swarm)


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> set[tuple[str, str, str]]:
    """(from, function, to) of every state that is written to a node, and is not what it was."""
    found = set[tuple[str, str, str]]()

    def record(node: Node, name: str, value: Any) -> None:
        writer = sys._getframe(1)
        copies = writer.f_globals is vars(copy)
        if name == "state" and not copies and (before := getattr(node, "state", START)) != value:
            found.add((str(before), writer.f_code.co_name, str(value)))
        object.__setattr__(node, name, value)

    monkeypatch.setattr(Node, "__setattr__", record, raising=False)
    return found


def walked(written: set[tuple[str, str, str]]) -> set[Arrow]:
    """The arrows that a swarm takes when everything happens to it in every order."""
    ended = set[Arrow]()

    def happen(swarm: Swarm) -> Iterator[Swarm]:
        for thing in things_that_happen():
            after = copy.deepcopy(swarm)
            try:
                thing(after)
            except (WireError, KeyError):  # it cannot happen here: the gateway cuts the node, or there is none
                continue
            ended.update(
                (str(node.state), "Left", END) for name, node in swarm.nodes.items() if name not in after.nodes
            )
            yield after

    start = full_swarm()
    reachable(start, happen)
    words = {handler.__name__: event.__name__ for event, handler in start._handlers.items()} | OTHER_WORDS
    return ended | {(begin, words.get(function, "Joined"), end) for begin, function, end in written}


def assignments() -> set[tuple[str, str]]:
    """(function, state) of every place in the source that gives a node a state."""
    return {
        (function.name, value.attr.lower())
        for file in (SOURCE / "coordinator").rglob("*.py")
        for function in ast.walk(ast.parse(file.read_text("utf-8")))
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        for value in _given(function)
    }


def _given(function: ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[ast.Attribute]:
    """The members of NodeState in its assignments to `….state`."""
    for node in ast.walk(function):
        if not isinstance(node, ast.Assign):
            continue
        for target in node.targets:
            pair = isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple)
            pairs = zip(target.elts, node.value.elts, strict=True) if pair else [(target, node.value)]  # type: ignore[attr-defined]
            for place, value in pairs:
                if isinstance(place, ast.Attribute) and place.attr == "state" and isinstance(value, ast.Attribute):
                    yield value


def test_the_states_of_a_node_are_drawn_as_the_swarm_takes_them(written: set[tuple[str, str, str]]) -> None:
    states = {str(state) for state in NodeState}
    assert drawn(PAGE.read_text("utf-8"), "A node", states) == walked(written)


def test_every_place_that_gives_a_node_a_state_has_been_seen(written: set[tuple[str, str, str]]) -> None:
    walked(written)
    assert {(function, end) for _, function, end in written if function != "__init__"} == assignments()


def test_the_states_of_a_node_are_explained() -> None:
    assert tabled(PAGE.read_text("utf-8"), "A node") == {str(state) for state in NodeState}
