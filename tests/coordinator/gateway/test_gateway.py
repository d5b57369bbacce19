import asyncio
import struct
from collections.abc import Callable

import msgspec
import numpy as np
import pytest

from kit.gateways import gateway_of, moderation_of
from kit.newcomer import GREETING, NODE, answer, introduce
from kit.played_node import (
    DIGEST,
    IDS,
    LAYERS,
    READY,
    ROWS,
    SCORES,
    TERMS,
    WIDTH,
    Node,
    hello,
    join,
    make_service,
    one_step,
)
from kit.runner import run, run_leaping
from kit.waiting import until
from potluck.coordinator.audits.audits import no_audits
from potluck.coordinator.compose import SwarmService
from potluck.coordinator.gateway import lookout
from potluck.coordinator.members.door import Entry
from potluck.coordinator.sessions import fair_queue, line
from potluck.coordinator.sessions.claim import Claim, Rank
from potluck.coordinator.sessions.session import Session
from potluck.coordinator.watching.status import swarm_status
from potluck.errors import Busy, LinkClosed, RouteLost, Unavailable
from potluck.types import Capacity, PauseReason, Span, Speed
from potluck.webserver.guard import stand
from potluck.wire.codec import encode
from potluck.wire.identity import Identity
from potluck.wire.link import BundledLink, MemoryLink
from potluck.wire.message import Message
from potluck.wire.messages import (
    PROTOCOL_VERSION,
    Challenge,
    Close,
    Failed,
    Greeting,
    Hello,
    Hidden,
    Leaving,
    Loading,
    Pause,
    PeerToken,
    Ping,
    Pong,
    Ready,
    Scores,
    Step,
    Threads,
    Welcome,
)


async def welcome(service: SwarmService, first: int, last: int) -> Welcome:
    """What a newcomer is told."""
    node = Node(service)
    await node.introduce(first, last)
    message = await node.receive()
    assert isinstance(message, Welcome)
    await node.leave()
    return message


def test_whoever_only_asks_is_told_and_leaves_no_trace() -> None:
    async def test() -> None:
        service = make_service()
        half = await join(service, 0, 1)
        before = swarm_status(service.swarm, "tiny", DIGEST, 512, no_audits(), 0)
        incidents = service.swarm.tally.incidents.copy()
        guest = Node(service)
        await guest.introduce(2, 3, joins=False)
        told = await guest.receive()
        assert isinstance(told, Welcome)
        assert told.prospect is not None
        assert told.span == Span(2, 3)
        assert (told.prospect.without.missing, told.prospect.joined.missing) == ((Span(2, 3),), ())
        assert told.prospect.without.many_streams == 0.0 < told.prospect.joined.many_streams
        assert told.peer_token == ""
        assert service.lobby.tickets.model_of(told.ticket) == DIGEST
        assert swarm_status(service.swarm, "tiny", DIGEST, 512, no_audits(), 0) == before
        await guest.leave()
        assert service.lobby.tickets.model_of(told.ticket) is None
        assert (service.swarm.nodes.keys(), service.swarm.tally.incidents) == ({half.name}, incidents)
        await half.leave()

    run(test())


def test_whoever_only_asks_cannot_work() -> None:
    async def test() -> None:
        service = make_service()
        guest = Node(service)
        await guest.introduce(joins=False)
        await guest.receive()
        await guest.send(READY)
        await guest.serving
        assert service.swarm.nodes == {}

    run(test())


def test_those_who_only_ask_stay_strangers_to_the_server() -> None:
    class Socket:
        """A node's web-socket as the server gives it."""

        def __init__(self) -> None:
            self.frames: asyncio.Queue[bytes] = asyncio.Queue()
            self.sent: asyncio.Queue[bytes] = asyncio.Queue()

        async def receive(self):
            return {"type": "websocket.receive", "bytes": await self.frames.get()}

        async def send(self, message) -> None:
            if "bytes" in message:
                self.sent.put_nowait(message["bytes"])

    class Noted:
        """Stands for a connection's standing with the server."""

        def __init__(self) -> None:
            self.told: list[str] = []

        def on_proven(self) -> None:
            self.told.append("proven")

        def vouch(self) -> None:
            self.told.append("vouched for")

    async def noted(*, joins: bool) -> list[str]:
        socket, standing = Socket(), Noted()
        scope = {"type": "websocket", "client": ("127.0.0.1", 1)}
        stand(scope, standing)  # type: ignore[arg-type]
        socket.frames.put_nowait(b"")  # the server's word for the connection
        stay = asyncio.create_task(gateway_of(make_service())(scope, socket.receive, socket.send))
        socket.frames.put_nowait(GREETING)
        socket.frames.put_nowait(answer(await socket.sent.get(), hello(joins=joins)))
        await socket.sent.get()
        stay.cancel()
        await asyncio.gather(stay, return_exceptions=True)
        return standing.told

    async def test() -> None:
        assert await noted(joins=False) == ["proven"]
        assert await noted(joins=True) == ["vouched for"]

    run(test())


def test_whoever_only_asks_is_refused_like_others() -> None:
    async def test() -> None:
        guest = Node(make_service())
        await guest.introduce(0, LAYERS, joins=False)
        assert "outside the model" in await guest.dropped()

    run(test())


def test_the_welcome_tells_what_a_node_adds() -> None:
    async def test() -> None:
        service = make_service()
        told = await welcome(service, 0, 2)
        assert told.prospect is not None
        assert (told.prospect.without.missing, told.prospect.joined.missing) == ((Span(0, 3),), (Span(3, 3),))

    run(test())


def test_a_node_is_admitted_with_all_it_must_know() -> None:
    async def test() -> None:
        service = make_service()
        node = Node(service)
        await node.introduce(1, 2, model=DIGEST)
        welcome = await node.receive()
        [(name, known)] = service.swarm.nodes.items()
        assert isinstance(welcome, Welcome)
        assert (welcome.node, welcome.model, welcome.span, welcome.context) == (name, DIGEST, Span(1, 2), 512)
        assert (welcome.engine, welcome.quantize) == (TERMS.engine, TERMS.quantize)
        assert (welcome.attention, welcome.rows) == (TERMS.attention, TERMS.rows)
        assert known.name == "anna"
        await node.leave()
        assert service.swarm.nodes == {}

    run(test())


def raw(header: bytes) -> bytes:
    return struct.pack("<I", len(header)) + header


FIRST_FRAMES = {
    "a later version": (encode(Greeting(PROTOCOL_VERSION + 1, bytes(32))), "install the same version"),
    "an earlier version": (raw(b"\x82\xa4kind\xa5hello\xa8protocol\2"), "The node speaks protocol 2"),
    "a short nonce": (encode(Greeting(PROTOCOL_VERSION, bytes(31))), "A nonce has 31 bytes instead of 32"),
    "no greeting": (encode(READY), "not a greeting"),
    "a hello": (encode(hello()), "not a greeting"),
    "garbage": (b"GET / HTTP/1.1\r\n\r\n", ""),
    "one byte": (b"\0", "too short"),
    "deep nesting": (raw(b"\x82\xa4kind\xa5hello\xa1x" + b"\x91" * 100_000 + b"\0"), ""),
}


@pytest.mark.parametrize(("frame", "reason"), FIRST_FRAMES.values(), ids=FIRST_FRAMES)
def test_a_node_that_does_not_greet_is_told_why(frame: bytes, reason: str) -> None:
    async def test() -> None:
        node = Node(make_service())
        await node.link.send(frame)
        assert reason in await node.dropped()

    run(test())


def broken(hello: Hello, old: bytes, new: bytes) -> Callable[[bytes], bytes]:
    return lambda challenge: answer(challenge, hello).replace(old, new)


SECOND_FRAMES: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "another model": (
        lambda challenge: answer(challenge, hello(model="e" * 64)),
        "eeeeeeeeeeeeeeee, this swarm serves dddddddddddddddd",
    ),
    "a span outside": (
        lambda challenge: answer(challenge, hello(2, 4)),
        "Span 2-4 is outside the model: its layers are 0-3",
    ),
    "an impossible span": (broken(hello(), b"\xa4last\x03", b"\xa4last\xff"), "span"),
    "too little memory": (
        lambda challenge: answer(challenge, hello(span=None, memory=-5)),
        "Even the smallest span",
    ),
    "a name that is no text": (broken(hello(), b"anna", b"\xff\xff\xff\xff"), ""),
    "another greeting": (lambda _: GREETING, "The challenge was answered with Greeting"),
    "no hello": (lambda _: encode(READY), "The challenge was answered with Ready"),
    "garbage": (lambda _: b"GET / HTTP/1.1\r\n\r\n", ""),
    "no proof": (lambda _: encode(hello()), "does not prove the key"),
    "another URL": (broken(hello(url="http://anna"), b"http://anna", b"http://evil"), "does not prove"),
    "another invite": (broken(hello(invite="lost"), b"lost", b"mine"), "does not prove"),
}


@pytest.mark.parametrize(("second", "reason"), SECOND_FRAMES.values(), ids=SECOND_FRAMES)
def test_a_node_that_cannot_be_admitted_is_told_why(second: Callable[[bytes], bytes], reason: str) -> None:
    async def test() -> None:
        node = Node(make_service())
        await node.link.send(GREETING)
        await node.link.send(second(await node.link.receive()))
        assert reason in await node.dropped()

    run(test())


@pytest.mark.parametrize("greets", [False, True])
def test_a_silent_node_is_not_waited_for(greets: bool) -> None:
    async def test() -> None:
        node = Node(make_service())
        if greets:
            await node.link.send(GREETING)
            assert isinstance(await node.receive(), Challenge)
        assert await node.dropped() == f"No {'hello' if greets else 'greeting'} came within {30 if greets else 5} s."

    run_leaping(test())


@pytest.mark.parametrize("already", [False, True])
def test_a_socket_that_closes_before_its_hello_leaves_nothing(already: bool) -> None:
    async def test() -> None:
        service = make_service()
        node = Node(service)
        if not already:
            await asyncio.sleep(0)
        await node.leave()
        assert service.swarm.nodes == {}

    run(test())


def test_steps_run_through_all_stages_and_closing_tells_each() -> None:
    async def test() -> None:
        service = make_service()
        first, last = await join(service, 0, 1), await join(service, 2, 3)
        session = await service.sessions.open(10)
        assert [stage.node for stage in session.route] == [first.name, last.name]
        result = one_step(session)
        step = await first.step()
        await first.send(Hidden(step.session, step.route, step.step, 3, 0.0, 0.0), ROWS)
        await last.answer()
        [candidates] = await result
        assert candidates.best(1) == ((4, -0.5),)
        session.close()
        session.close()
        assert [await node.receive() for node in (first, last)] == [Close(session.number)] * 2
        assert all(node.reserved == {} for node in service.swarm.nodes.values())
        await first.leave()
        await last.leave()

    run(test())


MALFORMED = {
    "garbage": b"\xff" * 30,
    "empty header": b"\0\0\0\0",
    "a bundle that ends early": b"\0\0\0\0\x09\0\0\0x",
    "a header beyond the frame": struct.pack("<I", 2**32 - 1),
    "a coordinator's message": encode(Close(1)),
    "a second hello": encode(hello()),
    "a second greeting": GREETING,
    "rows of another size": encode(Hidden(3, 1, 0, 3, 0.0, 0.0), ROWS[:-1]),
    "more rows": encode(Hidden(3, 1, 0, 2**40, 0.0, 0.0), ROWS),
    "hidden rows for scores": encode(Hidden(3, 1, 0, 3, 0.0, 0.0), ROWS),
    "scores of nothing": encode(Scores(3, 1, 0, (), 0.0, 0.0)),
    "huge counts": encode(Scores(3, 1, 0, (2**63,), 0.0, 0.0), SCORES),
    "a million counts": encode(Scores(3, 1, 0, (1,) * 1_000_000, 0.0, 0.0), SCORES),
    "NaN scores": encode(Scores(3, 1, 0, (1,), 0.0, 0.0), SCORES[:8] + struct.pack("<f", np.nan)),
    "a NaN total": encode(Scores(3, 1, 0, (1,), 0.0, 0.0), struct.pack("<f", np.nan) + SCORES[4:]),
    "a token out of the vocabulary": encode(
        Scores(3, 1, 0, (1,), 0.0, 0.0), SCORES[:4] + struct.pack("<i", 10) + SCORES[8:]
    ),
    "an integer for text": raw(b"\x85\xa4kind\xa6failed\xa7session\1\xa5route\1\xa4step\1\xa6reason\1"),
    "text that is no text": encode(Failed(3, 1, 0, "abc")).replace(b"abc", b"\xff\xff\xff"),
}


@pytest.mark.parametrize("frame", MALFORMED.values(), ids=MALFORMED)
def test_a_malformed_frame_drops_its_node_and_another_keeps_serving(frame: bytes) -> None:
    async def test() -> None:
        service = make_service()
        bad, good = await join(service), await join(service)
        session = await service.sessions.open(10)
        assert (session.number, session.route[0].node) == (3, bad.name)
        result = one_step(session)
        await bad.step()
        await bad.link.send(frame)
        assert await bad.dropped()
        with pytest.raises(RouteLost):
            await result
        session.close()
        other = await service.sessions.open(10)
        result = one_step(other)
        await good.answer()
        assert len(await result) == 1
        other.close()
        await good.leave()

    run(test())


HOSTILE = {
    "rows that are no numbers": [(0, b"\0\0\xc0\x7f" * 3 * WIDTH)],
    "infinite rows": [(0, b"\0\0\x80\x7f" * 3 * WIDTH)],
    "half a row": [(0, ROWS[:-4])],
    "a row too many": [(0, ROWS + bytes(4 * WIDTH))],
    "the same rows twice": [(0, ROWS), (0, ROWS)],
    "the second step before the first": [(1, ROWS)],
    "steps that were never sent": [(7, ROWS), (8, ROWS), (9, ROWS)],
}


@pytest.mark.parametrize("sent", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_stage_is_cut_and_its_session_can_be_mended(sent: list[tuple[int, bytes]]) -> None:
    async def test() -> None:
        service = make_service()
        bad, last = await join(service, 0, 1), await join(service, 2, 3)
        session = await service.sessions.open(10)
        results = [one_step(session), asyncio.create_task(session.step(3, IDS, 1, ((),)))]
        for _ in results:
            await bad.step()
        for number, payload in sent:
            await bad.send(Hidden(session.number, 1, number, 3, 0.0, 0.0), payload)
        assert await bad.dropped()
        for result in results:
            with pytest.raises(RouteLost):
                await result
        assert list(service.swarm.nodes) == [last.name]
        good = await join(service, 0, 1)
        assert await session.mend([]) == 0
        assert [stage.node for stage in session.route] == [good.name, last.name]
        session.close()
        await good.leave()
        await last.leave()

    run(test())


@pytest.mark.parametrize("message", [Pong(1, 0), Loading(0.5), Threads(1)], ids=lambda message: type(message).__name__)
def test_a_node_that_floods_is_cut(message: Message) -> None:
    async def test() -> None:
        service = make_service()
        bad, good = await join(service), await join(service)
        for _ in range(1000):
            await bad.send(message)
        assert "floods the coordinator" in await bad.dropped()
        session = await service.sessions.open(10)
        result = one_step(session)
        await good.answer()
        assert len(await result) == 1
        session.close()
        await good.leave()

    run(test())


def test_a_node_cannot_answer_for_the_session_of_another() -> None:
    async def test() -> None:
        service = make_service()
        good, bad = await join(service), await join(service)
        session = await service.sessions.open(10)
        assert session.route[0].node == good.name
        result = one_step(session)
        await asyncio.sleep(0)
        await bad.send(Scores(session.number, 1, 0, (1,), 0.0, 0.0), SCORES)
        assert "not at this node" in await bad.dropped()
        assert not result.done()
        await good.answer()
        assert len(await result) == 1
        session.close()
        await good.leave()

    run(test())


@pytest.mark.parametrize(
    "ready",
    [
        Ready(Capacity(8, 100, 576), Speed(float("nan"), 0.001), "", ""),
        Ready(Capacity(8, 100, 576), Speed(float("inf"), 0.001), "", ""),
        Ready(Capacity(8, 100, 576), Speed(-1.0, 0.001), "", ""),
        Ready(Capacity(8, 100, 576), Speed(0.01, float("nan")), "", ""),
        Ready(Capacity(8, 100, 576), Speed(0.01, -1.0), "", ""),
        Ready(Capacity(0, 100, 576), Speed(0.01, 0.001), "", ""),
        Ready(Capacity(-8, 100, 576), Speed(0.01, 0.001), "", ""),
        Ready(Capacity(8, -100, 576), Speed(0.01, 0.001), "", ""),
        Ready(Capacity(8, 100, 0), Speed(0.01, 0.001), "", ""),
        Ready(Capacity(8, 100, -1), Speed(0.01, 0.001), "", ""),
    ],
    ids=lambda ready: str((*msgspec.structs.astuple(ready.capacity), *msgspec.structs.astuple(ready.speed))),
)
def test_a_node_with_an_absurd_capacity_or_speed_is_dropped(ready: Ready) -> None:
    async def test() -> None:
        service = make_service()
        node = Node(service)
        await node.introduce()
        assert isinstance(await node.receive(), Welcome)
        await node.send(ready)
        await node.send(Loading(0.5))
        await node.link.send(b"end")  # garbage, so that it is dropped now at the latest
        assert "too short" not in await node.dropped()

    run(test())


@pytest.mark.parametrize("fraction", [float("nan"), float("inf"), -float("inf"), 1e9, -1.0])
def test_the_progress_shown_is_a_fraction_whatever_a_node_says(fraction: float) -> None:
    async def test() -> None:
        service = make_service()
        node = Node(service)
        await node.introduce()
        await node.receive()
        await node.send(Loading(fraction))
        for _ in range(5):
            await asyncio.sleep(0)
        status = swarm_status(service.swarm, "tiny", DIGEST, 512, no_audits(), 0)
        assert all(0 <= shown.progress <= 1 for shown in status.nodes)
        await node.leave()

    run(test())


def test_a_lost_node_breaks_its_sessions_which_keep_their_room_until_they_are_closed() -> None:
    async def test() -> None:
        service = make_service()
        first, last = await join(service, 0, 1), await join(service, 2, 3)
        session = await service.sessions.open(10)
        steps = [one_step(session) for _ in range(2)]
        await first.step()
        await last.leave()
        for step in steps:
            with pytest.raises(RouteLost, match="Node anna, which served layers 2-3, has left"):
                await step
        with pytest.raises(RouteLost):
            await one_step(session)
        await first.step()
        assert service.swarm.nodes[first.name].reserved == {session.number: 10}
        session.close()
        assert await first.receive() == Close(session.number)
        with pytest.raises(Unavailable, match="No node serves layers 2-3 now"):
            await service.sessions.open(10)
        assert service.swarm.nodes[first.name].reserved == {}
        await first.leave()

    run(test())


def test_a_step_that_a_node_cannot_run_loses_its_route_but_not_the_node() -> None:
    async def test() -> None:
        service = make_service()
        node = await join(service)
        session = await service.sessions.open(10)
        result = one_step(session)
        step = await node.step()
        await node.send(Failed(step.session, step.route, step.step, "The cache is full."))
        with pytest.raises(RouteLost, match=r"could not run a step: The cache is full\."):
            await result
        assert await node.receive() == Close(session.number)
        session.close()
        assert service.swarm.nodes[node.name].reserved == {}
        await node.leave()

    run(test())


async def next_step(node: Node) -> Step:
    """The next step that the node is given, whatever comes before it."""
    while not isinstance(message := await node.receive(), Step):
        pass
    return message


async def fail(node: Node) -> None:
    """Let the node say that it cannot run its next step."""
    message = await next_step(node)
    await node.send(Failed(message.session, message.route, message.step, "It cannot be run."))


@pytest.mark.parametrize("heir_fails", [True, False])
def test_a_node_is_blamed_only_for_what_another_node_can_run(heir_fails: bool) -> None:
    async def test() -> None:
        service = make_service()
        one, other = await join(service), await join(service)
        nodes = {one.name: one, other.name: other}
        session = await service.sessions.open(10)
        [stage] = session.route
        first = nodes.pop(stage.node)
        [heir] = nodes.values()
        result = one_step(session)
        await fail(first)
        with pytest.raises(RouteLost):
            await result
        assert await session.mend([], [first.name]) == 0
        if heir_fails:
            result = one_step(session)
            await fail(heir)
            with pytest.raises(RouteLost):
                await result
            await session.mend([])
        result = one_step(session)
        served = first if session.route[0].node == first.name else heir
        message = await next_step(served)
        await served.send(Scores(message.session, message.route, message.step, (1,), 0.0, 0.0), SCORES)
        await result
        records = service.lookout._heartbeat._records
        assert [records[node.name].failures for node in (first, heir)] == [0 if heir_fails else 1, 0]
        session.close()
        for node in (first, heir):
            await node.leave()

    run(test())


def test_who_finds_no_room_waits_until_there_is() -> None:
    async def test() -> None:
        service = make_service()
        node = await join(service)
        first = await service.sessions.open(60)
        waiting = [asyncio.create_task(service.sessions.open(60)) for _ in range(3)]
        await asyncio.sleep(0)
        waiting.pop(0).cancel()
        first.close()
        for task in waiting:
            (await task).close()
        assert service.swarm.nodes[node.name].reserved == {}
        await node.leave()

    run(test())


def test_who_waits_for_room_learns_that_it_will_not_come() -> None:
    async def test() -> None:
        service = make_service()
        node = await join(service)
        await service.sessions.open(60)
        waiting = asyncio.create_task(service.sessions.open(60))
        await asyncio.sleep(0)
        await node.leave()
        with pytest.raises(Unavailable, match="layers 0-3"):
            await waiting

    run(test())


def test_waiting_for_a_change_ends_at_the_deadline() -> None:
    async def test() -> None:
        service = make_service()
        assert not await service.changes.before(asyncio.get_running_loop().time())

    run(test())


def test_a_result_that_comes_after_its_session_ended_is_dropped() -> None:
    async def test() -> None:
        service = make_service()
        node = await join(service)
        session = await service.sessions.open(10)
        result = one_step(session)
        step = await node.step()
        result.cancel()
        with pytest.raises(asyncio.CancelledError):
            await result
        session.close()
        await node.send(Scores(step.session, step.route, step.step, (1,), 0.0, 0.0), SCORES)
        assert await node.receive() == Close(session.number)
        other = await service.sessions.open(10)
        result = one_step(other)
        await node.answer()
        assert len(await result) == 1
        await node.leave()

    run(test())


class Faulty(BundledLink):
    """The gateway's end towards a node that reads nothing, or whose line is cut, once it has its challenge."""

    def __init__(self, link: MemoryLink, *, stuck: bool) -> None:
        super().__init__()
        self._link = link
        self._stuck = stuck
        self._challenged = False

    async def send(self, frame: bytes) -> None:
        if not self._challenged:
            self._challenged = True
            await self._link.send(frame)
        elif self._stuck:
            await asyncio.Event().wait()
        else:
            raise LinkClosed("The line is cut.")

    async def _message(self) -> bytes:
        return await self._link._message()

    async def close(self) -> None:
        await self._link.close()


async def join_faulty(service: SwarmService, *, stuck: bool) -> tuple[MemoryLink, asyncio.Task[None]]:
    ours, theirs = MemoryLink.pair()
    serving = asyncio.create_task(gateway_of(service).serve(Faulty(theirs, stuck=stuck)))
    await introduce(ours, hello())
    await ours.send(encode(READY))
    return ours, serving


def test_a_node_that_reads_nothing_holds_up_nobody_else() -> None:
    async def test() -> None:
        service = make_service()
        stuck, serving = await join_faulty(service, stuck=True)
        node = await join(service)
        sessions = [await service.sessions.open(10), await service.sessions.open(10)]
        results = {session.route[0].node: one_step(session) for session in sessions}
        assert len(results) == 2
        await node.answer()
        assert len(await results.pop(node.name)) == 1
        await stuck.close()
        await serving
        [lost] = results.values()
        with pytest.raises(RouteLost):
            await lost
        await node.leave()

    run(test())


def test_a_malformed_node_that_reads_nothing_is_dropped_at_once() -> None:
    async def test() -> None:
        service = make_service()
        stuck, serving = await join_faulty(service, stuck=True)
        await until(lambda: any(service.swarm.served()))
        result = one_step(await service.sessions.open(10))
        await stuck.send(b"garbage")
        with pytest.raises(RouteLost):
            await result
        assert service.swarm.nodes == {}
        await stuck.close()
        serving.cancel()

    run(test())


def test_a_line_that_breaks_while_sending_leaves_no_trace() -> None:
    async def test() -> None:
        service = make_service()
        broken, serving = await join_faulty(service, stuck=False)
        await until(lambda: any(service.swarm.served()))
        await broken.close()
        await serving
        assert service.swarm.nodes == {}

    run(test())


def test_stopping_the_server_forgets_the_node() -> None:
    async def test() -> None:
        service = make_service()
        node = await join(service)
        node.serving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await node.serving
        assert service.swarm.nodes == {}
        with pytest.raises(LinkClosed):
            await node.receive()

    run(test())


def test_nobody_overtakes_a_big_request() -> None:
    async def test() -> None:
        service = make_service()
        node = await join(service)
        holders = [await service.sessions.open(40), await service.sessions.open(40)]
        order: list[int] = []

        async def open_one(positions: int) -> None:
            session = await service.sessions.open(positions)
            order.append(positions)
            session.close()

        waiting = [asyncio.create_task(open_one(positions)) for positions in (90, 10, 20)]
        await until(lambda: len(service.queue) == 3)
        holders.pop().close()  # there is room for the small ones, but not for the first
        for _ in range(10):
            await asyncio.sleep(0)
        assert (order, len(service.queue)) == ([], 3)
        holders.pop().close()
        await asyncio.gather(*waiting)
        assert (order, len(service.queue)) == ([90, 10, 20], 0)
        await node.leave()

    run(test())


def test_who_leaves_the_line_lets_the_next_try() -> None:
    async def test() -> None:
        service = make_service()
        node = await join(service)
        holder = await service.sessions.open(60)
        big, small = (asyncio.create_task(service.sessions.open(positions)) for positions in (90, 40))
        await until(lambda: len(service.queue) == 2)
        big.cancel()
        (await small).close()
        assert len(service.queue) == 0
        holder.close()
        await node.leave()

    run(test())


def test_a_full_line_turns_newcomers_away_but_never_an_interrupted_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fair_queue, "MOST_OF_ACCOUNT", 2)

    async def test() -> None:
        service = make_service()
        node = await join(service)
        holder = await service.sessions.open(100)
        order: list[str] = []

        async def open_one(name: str, urgent: bool = False) -> None:
            session = await service.sessions.open(60, urgent=urgent)
            order.append(name)
            session.close()

        waiting = [asyncio.create_task(open_one(name)) for name in ("first", "second")]
        await until(lambda: len(service.queue) == 2)
        with pytest.raises(Busy, match="2 interactive requests of this account are already waiting"):
            await service.sessions.open(1)
        waiting.append(asyncio.create_task(open_one("urgent", urgent=True)))
        await until(lambda: len(service.queue) == 3)
        holder.close()
        await asyncio.gather(*waiting)
        assert order == ["urgent", "first", "second"]
        await node.leave()

    run(test())


BATCH = Claim("anna", Rank.BATCH)
ROOMY = Ready(Capacity(4, 2000, 576), Speed(0.01, 0.001), "twin", "plain")
"""Room for three sessions of full length, and four in all."""


async def settled(service: SwarmService, waiting: int) -> None:
    """So many wait, and none of them can find room now."""
    await until(lambda: len(service.queue) == waiting)
    for _ in range(10):
        await asyncio.sleep(0)
    assert len(service.queue) == waiting


@pytest.mark.parametrize(("positions", "running"), [(500, 2), (10, 3)])
def test_an_interactive_request_behind_a_hundred_batch_requests_starts_at_once(positions: int, running: int) -> None:
    """Whether positions or sessions are short. Nothing ends meanwhile, and no step is run."""

    async def test() -> None:
        service = make_service()
        node = await join(service, ready=ROOMY)
        batch = [asyncio.create_task(service.sessions.open(positions, claim=BATCH)) for _ in range(100)]
        await settled(service, 100 - running)
        session = await service.sessions.open(TERMS.context, claim=Claim("ben"))
        assert [task.done() for task in batch] == [True] * running + [False] * (100 - running)
        session.close()
        for task in batch:
            task.cancel()
        await asyncio.gather(*batch, return_exceptions=True)
        await node.leave()

    run(test())


@pytest.mark.parametrize("rank", [Rank.BATCH, Rank.ANONYMOUS])
def test_a_batch_request_that_waits_for_room_to_spare_holds_up_no_interactive_one(rank: Rank) -> None:
    async def test() -> None:
        service = make_service()
        node = await join(service, ready=ROOMY)
        first = [await service.sessions.open(500) for _ in range(2)]
        batch = asyncio.create_task(service.sessions.open(500, claim=Claim("anna", rank)))
        await settled(service, 1)
        [waiting] = service.queue.standings(service.relay.clock(), 1)
        assert "room for it and for an interactive request" in waiting.reason
        third = await service.sessions.open(500)
        first.pop().close()
        await settled(service, 1)
        third.close()
        (await batch).close()
        await node.leave()

    run(test())


def test_room_to_spare_may_be_what_parked_sessions_hold() -> None:
    async def test() -> None:
        service = make_service()
        node = await join(service, ready=ROOMY)
        for number in range(2):
            session = await service.sessions.open(500)
            session.park(range(1000 * number, 1000 * number + 500))
        batch = await service.sessions.open(500, claim=BATCH)
        assert service.swarm.nodes[node.name].open_sessions == 1
        assert len(service.swarm.nodes[node.name].parked) == 2
        batch.close()
        await node.leave()

    run(test())


def test_where_there_is_never_room_to_spare_batch_runs_while_nothing_interactive_does() -> None:
    async def test() -> None:
        service = make_service()
        node = await join(service)  # less room than one session of full length
        interactive = await service.sessions.open(50)
        batch = [asyncio.create_task(service.sessions.open(40, claim=BATCH)) for _ in range(3)]
        await settled(service, 3)
        interactive.close()
        await settled(service, 1)
        newcomer = asyncio.create_task(service.sessions.open(90))
        await settled(service, 2)
        (await batch[0]).close()
        await settled(service, 2)
        (await batch[1]).close()
        (await newcomer).close()  # before the third
        (await batch[2]).close()
        await node.leave()

    run(test())


def test_a_batch_request_that_nothing_interactive_lets_in_rises(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        service = make_service()
        node = await join(service, ready=ROOMY)
        sessions = [await service.sessions.open(500) for _ in range(2)]
        monkeypatch.setattr(fair_queue, "AGING_S", 0.01)
        monkeypatch.setattr(line, "AGING_S", 0.01)
        (await service.sessions.open(500, claim=BATCH)).close()
        for session in sessions:
            session.close()
        await node.leave()

    run(test())


def test_an_account_pays_for_what_its_answers_took() -> None:
    async def test() -> None:
        service = make_service()
        node = await join(service)
        holder = await service.sessions.open(100)
        order: list[str] = []

        async def open_one(claim: Claim, positions: int, computed: int) -> None:
            session = await service.sessions.open(positions, claim=claim)
            order.append(claim.account)
            session.close(computed)

        greedy = [asyncio.create_task(open_one(Claim("anna"), 100, 10)) for _ in range(5)]
        modest = [asyncio.create_task(open_one(Claim("ben"), 10, 10)) for _ in range(5)]
        await settled(service, 10)
        holder.close()
        await asyncio.gather(*greedy, *modest)
        assert sorted(order[:6]) == ["anna"] * 3 + ["ben"] * 3
        await node.leave()

    run(test())


def test_who_can_never_be_served_does_not_wait_in_line() -> None:
    async def test() -> None:
        service = make_service()
        node = await join(service)
        holder = await service.sessions.open(60)
        waiting = asyncio.create_task(service.sessions.open(60))
        await until(lambda: len(service.queue) == 1)
        with pytest.raises(Unavailable, match="can hold 101 positions"):
            await service.sessions.open(101)
        waiting.cancel()
        holder.close()
        await node.leave()

    run(test())


def test_all_that_wait_learn_that_a_node_has_left_or_that_the_coordinator_stops() -> None:
    async def test() -> None:
        for stopping in (False, True):
            service = make_service()
            node = await join(service)
            await service.sessions.open(60)
            waiting = [asyncio.create_task(service.sessions.open(60)) for _ in range(3)]
            await until(lambda service=service: len(service.queue) == 3)  # type: ignore[misc]
            if stopping:
                service.stop()
            else:
                await node.leave()
            for task in waiting:
                with pytest.raises(Unavailable, match="is stopping" if stopping else "layers 0-3"):
                    await task
            assert len(service.queue) == 0
            if stopping:
                await node.leave()

    run(test())


TOKENS = list(range(30))


async def parked(service: SwarmService, node: Node, positions: int = 40, tokens: list[int] = TOKENS) -> Session:
    """A session that has run one step and is parked with these tokens."""
    session = await service.sessions.open(positions)
    result = one_step(session)
    await node.answer()
    await result
    session.park(tokens)
    return session


def test_a_parked_session_goes_on_with_its_number_its_route_and_its_steps() -> None:
    async def test() -> None:
        service = make_service()
        node = await join(service)
        first = await parked(service, node)
        assert service.swarm.nodes[node.name].reserved == {first.number: 30}
        [shown] = swarm_status(service.swarm, "tiny", DIGEST, 512, no_audits(), 0).nodes
        assert shown.sessions == 0
        session = await service.sessions.open(60, [*TOKENS, 50, 51])
        assert (session.number, session.route, session.held) == (first.number, first.route, 30)
        assert service.swarm.nodes[node.name].reserved == {first.number: 60}
        result = asyncio.create_task(session.step(30, IDS, 1, ((),)))
        step = await node.step()  # no Close came before it
        assert (step.session, step.step, step.position) == (first.number, 1, 30)
        await node.send(Scores(step.session, step.route, step.step, (1,), 0.0, 0.0), SCORES)
        assert len(await result) == 1
        session.close()
        assert await node.receive() == Close(session.number)
        assert (await service.sessions.open(60, TOKENS)).held == 0
        await node.leave()

    run(test())


def test_the_nodes_forget_parked_sessions_that_give_way_before_others_begin() -> None:
    async def test() -> None:
        service = make_service()
        node = await join(service)
        first = await parked(service, node)
        other = await service.sessions.open(90)
        assert other.held == 0
        result = one_step(other)
        assert await node.receive() == Close(first.number)
        await node.answer()
        await result
        other.close()
        await node.leave()

    run(test())


def test_who_waits_is_let_in_by_a_session_that_is_parked() -> None:
    async def test() -> None:
        service = make_service()
        node = await join(service)
        first = await service.sessions.open(60)
        waiting = asyncio.create_task(service.sessions.open(90, TOKENS))
        await until(lambda: len(service.queue) == 1)
        first.park(TOKENS)
        session = await waiting
        assert (session.number, session.held) == (first.number, 29)
        session.close()
        assert service.swarm.nodes[node.name].reserved == {}
        await node.leave()

    run(test())


@pytest.mark.parametrize("leaver", [0, 1])
def test_parked_sessions_go_with_the_last_node_of_their_route(leaver: int) -> None:
    async def test() -> None:
        service = make_service()
        nodes = [await join(service, 0, 1), await join(service, 2, 3)]
        session = await service.sessions.open(40)
        session.park(TOKENS)
        await nodes.pop(leaver).leave()
        [left] = nodes
        assert service.swarm.nodes[left.name].reserved == {session.number: 30}
        newcomer = await join(service, 2 * leaver, 2 * leaver + 1)
        again = await service.sessions.open(60, TOKENS)
        assert (again.number, again.held, again.is_lost) == (session.number, 29, True)
        again.close()
        assert await left.receive() == Close(session.number)
        last = await service.sessions.open(40)
        last.park(TOKENS)
        for node in (left, newcomer):
            await node.leave()
        assert not service.closing._admission.is_parked(last.number)


@pytest.mark.parametrize("change", [Leaving(), Pause(PauseReason.OWNER)])
def test_a_node_that_goes_forgets_what_is_parked(change: Leaving | Pause) -> None:
    """It need not wait until the chat continues. What the other stages hold stays."""

    async def test() -> None:
        service = make_service()
        goes, stays = await join(service, 0, 1), await join(service, 2, 3)
        session = await service.sessions.open(40)
        session.park(TOKENS)
        await goes.send(change)
        assert await goes.receive() == Close(session.number)
        assert [service.swarm.nodes[node.name].reserved for node in (goes, stays)] == [{}, {session.number: 30}]
        for node in (goes, stays):
            await node.leave()

    run(test())


def test_a_session_that_lost_its_route_is_not_parked() -> None:
    async def test() -> None:
        service = make_service()
        first, last = await join(service, 0, 1), await join(service, 2, 3)
        session = await service.sessions.open(40)
        await last.leave()
        session.park(TOKENS)
        assert service.swarm.nodes[first.name].reserved == {}
        last = await join(service, 2, 3)
        assert (await service.sessions.open(60, TOKENS)).held == 0
        await first.leave()
        await last.leave()

    run(test())


def test_parked_sessions_go_in_time_without_another_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("potluck.coordinator.sessions.prefix_cache.KEEP_S", 0.01)
    monkeypatch.setattr("potluck.coordinator.sessions.admission.KEEP_S", 0.01)

    async def test() -> None:
        service = make_service()
        node = await join(service)
        sessions = [await service.sessions.open(30) for _ in range(2)]
        for session in sessions:
            session.park(TOKENS)
            await asyncio.sleep(0)
        assert [await node.receive() for _ in sessions] == [Close(session.number) for session in sessions]
        assert service.swarm.nodes[node.name].reserved == {}
        again = await service.sessions.open(30)
        again.park(TOKENS)
        assert await node.receive() == Close(again.number)
        await node.leave()

    run(test())


def test_a_coordinator_that_stops_parks_nothing() -> None:
    async def test() -> None:
        service = make_service()
        node = await join(service)
        early, late = await service.sessions.open(30), await service.sessions.open(30)
        early.park(TOKENS)
        service.stop()
        late.park(TOKENS)
        assert service.swarm.nodes[node.name].reserved == {early.number: 30}
        assert await node.receive() == Close(late.number)
        await node.leave()

    run(test())


def test_a_newcomer_learns_which_nodes_share_its_layers() -> None:
    async def test() -> None:
        service = make_service()
        assert (await welcome(service, 0, 3)).peers == ()
        sharing = msgspec.structs.replace(READY, shares="http://10.0.0.1:4711")
        honest = await join(service, 0, 1, sharing, "10.0.0.1")
        liar = await join(service, 0, 1, sharing, "10.0.0.2")
        told = await welcome(service, 1, 3)
        assert told.peers == ("http://10.0.0.1:4711",)
        assert (await welcome(service, 2, 3)).peers == ()
        assert told.peer_token == (await welcome(service, 0, 3)).peer_token
        assert told.peer_token != (await welcome(make_service(), 0, 3)).peer_token
        assert len(told.peer_token) > 30
        await honest.leave()
        assert (await welcome(service, 1, 3)).peers == ()
        await liar.leave()

    run(test())


def test_a_node_is_cut_with_the_reason_and_its_sessions_go_on_elsewhere() -> None:
    async def test() -> None:
        service = make_service()
        identities = [Identity.fresh(), Identity.fresh()]
        bad, good = [await join(service, identity=identity) for identity in identities]
        session = await service.sessions.open(10)
        gone, stays = (bad, good) if session.route[0].node == bad.name else (good, bad)
        step = one_step(session)
        moderation_of(service).cut(identities[gone is good].public, "You are revoked.")
        with pytest.raises(RouteLost):
            await step
        assert await gone.dropped() == "You are revoked."
        assert list(service.swarm.nodes) == [stays.name]
        assert isinstance(await stays.receive(), PeerToken)
        assert await session.mend([]) == 0
        step = one_step(session)
        await stays.answer()
        await step
        session.close()
        moderation_of(service).cut(b"nobody", "Nobody is meant.")
        await stays.leave()

    run(test())


@pytest.mark.parametrize("here", [True, False])
def test_a_cut_node_takes_no_token_along_that_opens_anything(here: bool) -> None:
    async def test() -> None:
        service = make_service()
        identity = Identity.fresh()
        gone, stays = await join(service, identity=identity), await join(service)
        known = (await welcome(service, 0, 3)).peer_token
        if not here:
            await gone.leave()
        moderation_of(service).cut(identity.public, "You are revoked.")
        told = await stays.receive()
        assert isinstance(told, PeerToken)
        assert told.token != known
        assert (await welcome(service, 0, 3)).peer_token == told.token
        if here:
            assert await gone.dropped() == "You are revoked."  # and nothing before that
        await stays.leave()

    run(test())


def test_a_cut_node_that_reads_nothing_is_gone_at_once() -> None:
    async def test() -> None:
        service = make_service()
        stuck, serving = await join_faulty(service, stuck=True)
        await until(lambda: any(service.swarm.served()))
        [known] = service.swarm.nodes.values()
        for _ in range(2):
            moderation_of(service).cut(known.key, "You are revoked.")
        await until(lambda: not service.swarm.nodes)
        await stuck.close()
        serving.cancel()

    run(test())


def test_a_ticket_lasts_as_long_as_the_link() -> None:
    async def test() -> None:
        service = make_service()
        node = Node(service)
        await node.introduce()
        welcome = await node.receive()
        assert isinstance(welcome, Welcome)
        assert service.lobby.tickets.model_of(welcome.ticket) == DIGEST
        await node.leave()
        assert service.lobby.tickets.model_of(welcome.ticket) is None

    run(test())


@pytest.mark.parametrize("audit", [0.0, 0.02])
def test_a_nodes_work_is_booked_for_its_account_until_an_audit_covers_it_if_there_are_any(audit: float) -> None:
    async def test() -> None:
        service = make_service(audit)
        node = await join(service)
        known = service.swarm.nodes[node.name]
        known.entry = Entry("anna", trusted=False)
        session = await service.sessions.open(10)
        step, asked = one_step(session), await node.step()
        await node.send(Scores(asked.session, asked.route, asked.step, (1,), 0.0, 0.5), SCORES)
        await step
        done = len(IDS) * LAYERS
        assert service.swarm.tally.rows == len(IDS)
        assert (service.ledger.pending("anna"), service.ledger.balance("anna")) == ((done, 0) if audit else (0, done))
        service.ledger.settle(known.key)
        assert service.ledger.balance("anna") == done
        session.close()
        payer = await service.sessions.open(10, claim=Claim("anna"))
        payer.close(computed=2)
        assert service.ledger.balance("anna") == done - 2 * LAYERS
        await node.leave()

    run(test())


def test_a_node_that_is_revoked_while_it_is_at_the_door_stays_outside() -> None:
    async def test() -> None:
        service = make_service()
        node = Node(service)
        await node.introduce(movable=True)
        ping = await node.receive()  # the door has let it in, and its link is looked at
        assert isinstance(ping, Ping)
        moderation_of(service).cut(NODE.public, "revoked")
        assert await node.dropped() == "revoked"

    run(test())


def test_a_node_that_does_not_get_on_with_loading_loses_its_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        service = make_service()
        monkeypatch.setattr(lookout, "_LONGEST_LOADING_S", -1.0)
        node = Node(service)
        await node.introduce()
        assert isinstance(await node.receive(), Welcome)
        service.lookout._end_idle_loading()
        assert "loading" in await node.dropped()

    run(test())


def test_whoever_works_for_themselves_earns_nothing() -> None:
    async def test() -> None:
        service = make_service()
        node = await join(service)
        service.swarm.nodes[node.name].entry = Entry("anna", trusted=False)
        for account, earned in (("anna", 0), ("ben", len(IDS) * LAYERS)):
            session = await service.sessions.open(10, claim=Claim(account))
            step, asked = one_step(session), await node.step()
            await node.send(Scores(asked.session, asked.route, asked.step, (1,), 0.0, 0.5), SCORES)
            await step
            assert service.ledger.pending("anna") + service.ledger.balance("anna") == earned
            session.close()
            await node.receive()  # it shall forget the session
        await node.leave()

    run(test())
