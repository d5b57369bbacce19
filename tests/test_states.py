"""The drawings of docs/internals/states.md are the state machines' own: each is taken through all of its events."""

from __future__ import annotations

import ast
import asyncio
import copy
import re
import sys
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

import potluck
from kit.newcomer import reception
from kit.runner import run
from potluck.coordinator.compose import compose_swarm
from potluck.coordinator.gateway.lobby import new_lobby
from potluck.coordinator.gateway.terms import Terms
from potluck.coordinator.sessions.claim import Claim
from potluck.coordinator.sessions.session import Session
from potluck.coordinator.swarm.events import (
    BecameReady,
    Event,
    Joined,
    Keeps,
    Leaves,
    Left,
    Lends,
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
from potluck.errors import RebuildFailed, RouteLost, Unavailable, WireError
from potluck.planning.cost import RESERVE_BYTES, Footprint
from potluck.types import Attention, Capacity, EngineKind, NodeState, PauseReason, Quantize, RowFormat, Span, Speed
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
        Lends(node),
        Keeps(node),
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
        if writer.f_code is Swarm._become.__code__ and writer.f_back is not None:
            writer = writer.f_back
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
    """The members of NodeState in its calls of `_become` and its assignments to `….state`."""
    for node in ast.walk(function):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "_become":
            yield node.args[1]  # type: ignore[misc]
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


# A session.

WORDS = {
    "granted": "granted",
    "gave up": "gave up",
    "leaves": "a node goes",
    "pauses": "a node goes",
    "resumes": "the node stays",
    "vanishes": "a stage is lost",
    "fails": "a stage is lost",
    "mends": "mended",
    "is rebuilt": "rebuilt",
    "cannot be rebuilt": "rebuilt",
    "ends": "closed",
    "rests": "parked",
    "is asked again": "taken over",
    "expires": "dropped",
}
"""The word at the arrow that each operation takes."""

TOKENS = list(range(20))
POSITIONS = 30
ROOM = Ready(Capacity(4, 40, 64), Speed(0.01, 0.001), "", "plain")
"""For the session and nothing else."""
SESSION_STATES = {"waiting", "open", "parting", "lost", "rebuilding", "parked"}


class World:
    """A swarm without sockets, in which every layer has two nodes, and one request."""

    def __init__(self) -> None:
        self.swarm = Swarm("d" * 64, Footprint((1,) * 4, 0, 0))
        terms = Terms("d" * 64, EngineKind.LLAMACPP, Quantize.NONE, Attention.EXACT, RowFormat.F32, 64)
        self.service = compose_swarm(terms, self.swarm, new_lobby(reception()), width=2, vocabulary=10)
        self.driver = self.service.gate.driver
        for name, span in [("a1", "0-1"), ("b1", "2-3")]:
            self._join(name, span)
        self.holder: Session | None = None
        self.session: Session | None = None
        self.asked: asyncio.Task[Session] | None = None
        self.mending: asyncio.Task[int | None] | None = None

    def _join(self, name: str, span: str) -> None:
        self.driver.apply(Joined(name, Hello(name, "0.1", "", Span.parse(span), RESERVE_BYTES + 3, 1)))
        self.driver.apply(BecameReady(name, ROOM))

    async def begin(self) -> None:
        """The request waits, because somebody else has all room. The nodes' doubles come once it is about to start."""
        self.holder = await self.service.sessions.open(40)
        self.asked = asyncio.create_task(self._open())
        await settle()

    async def _open(self) -> Session:
        return await self.service.sessions.open(POSITIONS, TOKENS, claim=Claim("anna"))

    @property
    def state(self) -> str:
        """Of the session, as everybody who has to do with it sees it."""
        if self.session is None:
            assert self.asked is not None
            return END if self.asked.done() else "waiting"
        number = self.session.number
        if any(number in node.parked for node in self.swarm.nodes.values()):
            return "parked"
        if number not in self.service.relay._flights:
            return END
        if self.session.is_lost:
            return "lost"
        if self.session.lacking:
            return "rebuilding"
        return "open" if self.session.is_whole else "parting"

    @property
    def summary(self) -> object:
        number = self.session.number if self.session else 0
        nodes = {name: (str(node.state), number in node.reserved) for name, node in self.swarm.nodes.items()}
        return self.state, nodes, self.mending is not None

    @property
    def first(self) -> str:
        """The node of the session's first stage. Of a parked session it is the first one that is still there."""
        assert self.session is not None
        held = self.swarm.kv_budget.holders(self.session.number)
        return next(stage.node for stage in self.session.route if self.state != "parked" or stage.node in held)

    async def do(self, operation: str) -> None:
        await self.operations()[operation]()
        await settle()

    def operations(self) -> Mapping[str, Callable[[], Awaitable[None]]]:
        """What can happen to the session in its state."""
        first: dict[str, Callable[[], Awaitable[None]]] = {
            "leaves": lambda: self._apply(Leaves(self.first)),
            "pauses": lambda: self._apply(Pauses(self.first, PauseReason.OWNER)),
            "vanishes": lambda: self._apply(Left(self.first)),
        }
        match self.state:
            case "waiting":
                return {"granted": self._grant, "gave up": self._give_up}
            case "open":
                return {**first, "fails": self._fail, "ends": self._end, "rests": self._rest}
            case "parting":
                some = {"vanishes": first["vanishes"], "mends": self._mend, "ends": self._end, "rests": self._rest}
                paused = self.swarm.nodes[self.first].state is NodeState.PAUSED
                return some | ({"resumes": lambda: self._apply(Resumes(self.first))} if paused else {})
            case "lost":
                return {"mends": self._mend, "ends": self._end, "rests": self._rest}
            case "rebuilding":
                return {
                    **first,
                    "is rebuilt": self._rebuild,
                    "cannot be rebuilt": self._fail_to_rebuild,
                    "ends": self._end,
                }
            case "parked":
                return {**first, "is asked again": self._ask_again, "expires": self._expire}
        return {}

    async def _apply(self, event: Event) -> None:
        self.driver.apply(event)
        await settle()
        if self.mending is not None and self.mending.done():
            self._note_mended()

    def _note_mended(self) -> None:
        assert self.mending is not None
        with suppress(RouteLost):
            self.mending.result()
        self.mending = None

    async def _grant(self) -> None:
        assert self.holder is not None
        assert self.asked is not None
        self.holder.close()
        self.session = await self.asked
        for name, span in [("a2", "0-1"), ("b2", "2-3")]:
            self._join(name, span)

    async def _give_up(self) -> None:
        assert self.asked is not None
        self.asked.cancel()

    async def _fail(self) -> None:
        """A node says that it could not run a step."""
        assert self.session is not None
        self.swarm.nodes[self.first].forget(self.session.number)
        self.service.pending.lose(self.session.number, "It could not.", self.first)

    async def _mend(self) -> None:
        assert self.session is not None
        self.mending = asyncio.create_task(self.session.mend(TOKENS))
        await settle()
        if self.mending.done():
            self._note_mended()

    async def _rebuild(self) -> None:
        await self._end_steps(lambda key: self.service.pending.finish(*key, []))

    async def _fail_to_rebuild(self) -> None:
        await self._end_steps(lambda key: self.service.pending.end(key[0], RebuildFailed("The journal is short.")))

    async def _end_steps(self, end: Callable[[tuple[int, int]], None]) -> None:
        assert self.mending is not None
        while not self.mending.done():
            for key in list(self.service.pending._futures):
                end(key)
            await settle()
        self._note_mended()

    async def _end(self) -> None:
        assert self.session is not None
        if self.mending is not None:
            self.mending.cancel()
            await settle()
        self.session.close()

    async def _rest(self) -> None:
        assert self.session is not None
        self.session.park(TOKENS)

    async def _ask_again(self) -> None:
        assert self.session is not None
        number = self.session.number
        with suppress(Unavailable):  # other layers are missing: the request is refused, and the session stays
            self.session = await self._open()
        assert self.session.number == number

    async def _expire(self) -> None:
        assert self.session is not None
        self.service.closing.close(self.session.number)

    async def end(self) -> None:
        """Leave no task behind."""
        for task in (self.asked, self.mending):
            if task is not None:
                task.cancel()
        await settle()
        self.service.stop()
        await settle()


async def settle() -> None:
    """Let everything run that can."""
    for _ in range(20):
        await asyncio.sleep(0)


async def arrived(path: Sequence[str]) -> World:
    world = World()
    await world.begin()
    for operation in path:
        await world.do(operation)
    return world


async def walk_of_a_session() -> set[Arrow]:
    """The arrows that a session takes when everything happens to it in every order."""
    arrows: set[Arrow] = {(START, "asked for", "waiting")}
    seen: list[object] = []
    waiting: list[tuple[str, ...]] = [()]
    while waiting:
        path = waiting.pop(0)
        start = await arrived(path)
        before, operations, told = start.state, list(start.operations()), start.summary
        await start.end()
        if told in seen:
            continue
        seen.append(told)
        for operation in operations:
            world = await arrived([*path, operation])
            if world.state != before:
                word = "dropped" if before == "parked" and world.state == END else WORDS[operation]
                arrows.add((before, "closed" if operation == "rests" and world.state == END else word, world.state))
            waiting.append((*path, operation))
            await world.end()
    return arrows


def test_the_states_of_a_session_are_drawn_as_its_managers_take_them() -> None:
    assert drawn(PAGE.read_text("utf-8"), "A session", SESSION_STATES) == run(walk_of_a_session())


def test_the_states_of_a_session_are_explained() -> None:
    assert tabled(PAGE.read_text("utf-8"), "A session") == SESSION_STATES
