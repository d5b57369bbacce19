"""An owner's wishes while a node serves: clocks of its own, a fake load, a toy engine."""

import asyncio
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
import pytest

from kit.runner import run_leaping
from kit.toy_engine import FIRST, SPEED, ToyEngine, TwoCores
from potluck.node import agent as module
from potluck.node import neighbours
from potluck.node.agent import Agent
from potluck.node.config import NodeConfig
from potluck.node.orders import Order, give
from potluck.node.permit import Hours
from potluck.node.room import Room
from potluck.types import Attention, Capacity, EngineKind, PauseReason, Quantize, RowFormat
from potluck.wire.codec import decode_from_node, encode
from potluck.wire.identity import Identity
from potluck.wire.link import MemoryLink
from potluck.wire.message import Message
from potluck.wire.messages import Failed, FromNode, Hidden, Pause, Ready, Released, Resume, Step, Welcome
from potluck.wire.rows import pack_ids

T = TypeVar("T")

WELCOME = Welcome(
    node="n1",
    model="d",
    span=FIRST,
    engine=EngineKind.LLAMACPP,
    quantize=Quantize.NONE,
    attention=Attention.EXACT,
    rows=RowFormat.F32,
    context=64,
)
STEP = encode(
    Step(session=7, route=1, step=0, position=0, rows=1, last=1, top=1, asks=(), stages=1),
    pack_ids(np.array([4], np.int32)),
)


class Machine:
    """Its time of day, its clock, and the cores that its owner uses."""

    def __init__(self) -> None:
        self.hour, self.now, self.used, self.on_battery = 12, 1000.0, 0.0, False

    def localtime(self) -> time.struct_time:
        return time.struct_time((2026, 1, 1, self.hour, 0, 0, 3, 1, 0))

    def monotonic(self) -> float:
        return self.now

    def __call__(self, cores: int, *_: object) -> Any:
        """In place of `Neighbours`."""
        return type("Neighbours", (), {"free_cores": lambda _: cores - self.used})()


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Machine:
    machine = Machine()
    monkeypatch.setenv("POTLUCK_DATA", str(tmp_path))
    monkeypatch.setattr(module, "time", machine)
    monkeypatch.setattr(module, "on_battery", lambda: machine.on_battery)
    monkeypatch.setattr(module, "Neighbours", machine)
    monkeypatch.setattr(module, "Cores", ToyCores)
    monkeypatch.setattr(module, "Worker", ToyWorker)
    return machine


class ToyCores(TwoCores):
    def __init__(self, threads: int) -> None:
        super().__init__()
        self.threads, self.count, self.allowed = threads, 2, None


class ToyWorker:
    """Without a thread, so that computations take no time of the loop's."""

    async def run(self, call: Callable[..., T], *arguments: Any) -> T:
        return call(*arguments)


class Said:
    def __init__(self) -> None:
        self.lines: list[str] = []
        self.something = asyncio.Event()

    def say(self, text: str) -> None:
        self.something.set()
        self.lines.append(text)

    def progress(self, what: str, fraction: float | None) -> None:
        raise AssertionError(what)


class Bench:
    """A node that serves; the test plays the coordinator, and the owner."""

    def __init__(self, hours: Hours | None = None, idle_only: bool = False) -> None:
        self.said = Said()
        identity = Identity.fresh()
        config = NodeConfig("http://x", "anna", None, None, Room(1), 1, identity, hours=hours, idle_only=idle_only)
        self.agent = Agent(config, self.said)
        self.link, self._theirs = MemoryLink.pair()

    @contextmanager
    def serving(self) -> Iterator[None]:
        ready = Ready(Capacity(8, 64, 32), SPEED, "", "")
        loaded = module._Loaded(WELCOME, cast(Any, ToyEngine(FIRST)), ready, cast(Any, None))
        task = asyncio.create_task(self.agent._serve_span(loaded, self._theirs))
        try:
            yield
        finally:
            task.cancel()

    async def next(self, *kinds: type[FromNode]) -> Message:
        while True:
            message, _ = decode_from_node(await self.link.receive())
            if isinstance(message, kinds):
                return message

    async def step(self) -> Message:
        await self.link.send(STEP)
        return await self.next(Hidden, Failed)

    async def steps_fail(self) -> None:
        """Soon, and then for good."""
        while not isinstance(await self.step(), Failed):
            pass
        assert isinstance(await self.step(), Failed)


def test_an_owner_who_comes_back_has_the_machine_until_it_was_quiet_for_a_minute(machine: Machine) -> None:
    async def test() -> None:
        bench = Bench(idle_only=True)
        with bench.serving():
            assert isinstance(await bench.step(), Hidden)
            machine.used = 1.0
            assert await bench.next(Pause) == Pause(PauseReason.BUSY)
            await bench.steps_fail()
            machine.used, machine.now = 0.0, machine.now + 59
            await bench.steps_fail()
            machine.now += 1
            assert await bench.next(Resume) == Resume()
            assert isinstance(await bench.step(), Hidden)
        assert bench.said.lines == ["Pausing: its owner uses the machine.", "Continuing."]

    run_leaping(test())


@pytest.mark.parametrize("by_hand", [True, False])
def test_an_owner_waits_less_than_a_second(machine: Machine, by_hand: bool) -> None:
    async def test() -> None:
        bench = Bench(idle_only=True)
        with bench.serving():
            assert isinstance(await bench.step(), Hidden)
            began = asyncio.get_running_loop().time()
            if by_hand:
                bench.agent.pause()
            else:
                machine.used = 1.0
            await bench.next(Pause)
            await bench.steps_fail()
            assert asyncio.get_running_loop().time() - began < 1

    run_leaping(test())


def test_outside_its_hours_a_node_computes_nothing(machine: Machine) -> None:
    async def test() -> None:
        bench = Bench(hours=Hours.parse("22-07"))
        machine.hour = 6
        with bench.serving():
            assert isinstance(await bench.step(), Hidden)
            machine.hour = 7
            assert await bench.next(Pause) == Pause(PauseReason.HOURS)
            await bench.steps_fail()
            machine.hour = 22
            await bench.next(Resume)
            assert isinstance(await bench.step(), Hidden)

    run_leaping(test())


def test_on_battery_a_node_computes_nothing(machine: Machine) -> None:
    async def test() -> None:
        bench = Bench()
        with bench.serving():
            assert isinstance(await bench.step(), Hidden)
            machine.on_battery = True
            assert await bench.next(Pause) == Pause(PauseReason.BATTERY)
            await bench.steps_fail()
            machine.on_battery = False
            await bench.next(Resume)
            assert isinstance(await bench.step(), Hidden)

    run_leaping(test())


def test_a_node_obeys_what_its_owner_orders_from_another_process(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(neighbours, "default_folder", lambda: tmp_path)

    async def test() -> None:
        bench = Bench()
        machine.on_battery = True
        running = asyncio.create_task(bench.agent.run())
        await bench.said.something.wait()
        assert bench.said.lines == ["Waiting: it runs on battery."]
        give(Order.PAUSE, os.getpid())
        await asyncio.sleep(1.0)  # of the loop's clock, which leaps
        assert bench.said.lines[1:] == ["Waiting: its owner paused it."]
        give(Order.LEAVE, os.getpid())
        with pytest.raises(asyncio.CancelledError):
            await running

    run_leaping(test())


def test_outside_its_hours_a_node_does_not_even_dial(machine: Machine) -> None:
    async def test() -> None:
        bench = Bench(hours=Hours.parse("22-07"))
        running = asyncio.create_task(bench.agent.run())
        await bench.said.something.wait()
        assert bench.said.lines == ["Waiting: it is outside its hours."]
        bench.agent.leave()
        with pytest.raises(asyncio.CancelledError):
            await running

    run_leaping(test())


def test_paused_by_hand_it_stays_paused_until_it_is_resumed_by_hand(machine: Machine) -> None:
    async def test() -> None:
        bench = Bench()
        with bench.serving():
            bench.agent.pause()
            assert await bench.next(Pause) == Pause(PauseReason.OWNER)
            await bench.steps_fail()
            bench.agent.resume()
            await bench.next(Resume)
            assert isinstance(await bench.step(), Hidden)
            await bench.link.send(encode(Released()))

    run_leaping(test())


@pytest.mark.parametrize("used", [0.0, 3.0])
def test_a_node_without_conditions_works_beside_its_owner(machine: Machine, used: float) -> None:
    async def test() -> None:
        bench = Bench()
        machine.used = used
        with bench.serving():
            for _ in range(5):
                assert isinstance(await bench.step(), Hidden)
                await asyncio.sleep(module._FOLLOW_S)
        assert bench.said.lines == []

    run_leaping(test())
