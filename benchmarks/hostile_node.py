"""A node that lies, which is `potluck join` with its engine wrapped; benchmarks/adversary.py starts it.

    python benchmarks/hostile_node.py URL SPAN --attack zeros [--model FILE] [--honest 160] [--most 400] [--plain]

Each time that it is caught, or has lied in so many steps, it says so in one line and comes back as another node with a
name and a key of its own. Its twin mark is the honest one, because it lies about sessions and not about the probe.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from typing import Any, cast
from unittest.mock import patch

import numpy as np

from potluck.engine.base import Engine, Output, Segment
from potluck.engine.probe import Trial
from potluck.node import agent, loading
from potluck.node.config import NodeConfig
from potluck.node.hardware import free_memory
from potluck.node.progress import Report
from potluck.node.room import Room
from potluck.types import Span
from potluck.wire.identity import Identity

PROBE = -1
"""The session of the probe when a node loads: whoever lies there betrays itself."""

Lie = Callable[["Liar", Segment, Output], Output]


def zeros(_: Liar, __: Segment, rows: Output) -> Output:
    return np.zeros_like(rows)


def noise(share: float) -> Lie:
    def lie(liar: Liar, _: Segment, rows: Output) -> Output:
        return np.asarray(rows + share * sizes(rows) * liar.random.standard_normal(rows.shape), np.float32)

    return lie


def sizes(rows: Output) -> Output:
    """The root mean square of each row."""
    return np.asarray(np.sqrt(np.mean(rows**2, axis=1, keepdims=True)))


def bias(_: Liar, __: Segment, rows: Output) -> Output:
    return np.asarray(rows + 0.001 * sizes(rows), np.float32)


def stale(liar: Liar, segment: Segment, rows: Output) -> Output:
    """Answer with the output of the step before."""
    before = liar.latest.get(segment.session, rows[:1])
    liar.latest[segment.session] = rows[-1:]
    return np.repeat(before, len(rows), axis=0) if len(rows) else rows


def forge(_: Liar, __: Segment, logits: Output) -> Output:
    """Make one token much likelier than it should be."""
    forged = logits.copy()
    forged[:, 42] += 5.0
    return forged


def as_it_is(_: Liar, __: Segment, rows: Output) -> Output:
    """Change nothing, for lies that are told by computing fewer layers."""
    return rows


LIES: dict[str, Lie] = {
    "none": as_it_is,
    "zeros": zeros,
    "noise 1 %": noise(0.01),
    "noise 5 %": noise(0.05),
    "bias 0.1 %": bias,
    "another layer": as_it_is,
    "skip a layer": as_it_is,
    "stale rows": stale,
    "forged candidates": forge,
}


class Liar:
    """An engine that answers truly for `honest` steps and then tells one kind of lie."""

    def __init__(self, engine: Engine, attack: str, honest: int) -> None:
        self._engine = engine
        self._attack = attack
        self.honest = honest
        self.told = 0
        self.latest: dict[int, Output] = {}
        self.random = np.random.default_rng()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def forward(self, batch: Sequence[Segment]) -> list[Output]:
        real = [segment for segment in batch if segment.session != PROBE]
        self.honest -= len(real)
        if not real or self.honest >= 0 or self._attack == "none":
            return self._engine.forward(batch)
        self.told += len(real)
        outputs = self._engine.forward([self._shortened(segment) for segment in batch])
        return [LIES[self._attack](self, segment, rows) for segment, rows in zip(batch, outputs, strict=True)]

    def _shortened(self, segment: Segment) -> Segment:
        span = self._engine.span
        lasts = {"another layer": span.first, "skip a layer": max(span.first, segment.last - 1)}
        last = lasts.get(self._attack, segment.last)
        return Segment(segment.session, segment.position, segment.data, last, segment.wanted)


class Told:
    """Listens to what the coordinator tells the node's owner."""

    def __init__(self) -> None:
        self.caught = asyncio.Event()

    def say(self, text: str) -> None:
        print(text, flush=True)
        if "no longer uses this node" in text:
            self.caught.set()

    def progress(self, what: str, fraction: float | None) -> None:
        pass


async def stay(config: NodeConfig, liar: list[Liar], most: int, loaded: Any) -> Any:
    """Stay under one name until the node is caught or has lied enough. Returns the loaded span for the next stay."""
    told = Told()
    node = agent.Agent(config, told)
    node._loaded = loaded
    running = asyncio.create_task(node.run())
    caught = asyncio.create_task(told.caught.wait())
    while not running.done() and not caught.done() and not (liar and liar[0].told > most):
        await asyncio.wait({running, caught}, timeout=0.02, return_when=asyncio.FIRST_COMPLETED)
    print(f"{'CAUGHT' if caught.done() else 'FREE'} {liar[0].told if liar else 0}", flush=True)
    for task in (running, caught):
        task.cancel()
    await asyncio.gather(running, caught, return_exceptions=True)
    return node._loaded


def plain_layout(trial: Trial, _: Report) -> Trial:
    """The trial with the plain weight layout. It notes no verdict, which honest nodes would go by."""
    return next(one for one in loading._tries(trial) if not one.extra_buffers)


async def run(arguments: argparse.Namespace) -> None:
    liar: list[Liar] = []
    load = loading.load_span

    def load_liar(*args: Any) -> tuple[Engine, str]:
        engine, layout = load(*args)
        liar[:] = [Liar(engine, arguments.attack, arguments.honest)]
        return cast(Engine, liar[0]), layout

    with ExitStack() as stack:
        stack.enter_context(patch.object(agent, "load_span", load_liar))
        if arguments.plain:
            stack.enter_context(patch.object(loading, "_surviving", plain_layout))
        await stay_again(arguments, liar)


async def stay_again(arguments: argparse.Namespace, liar: list[Liar]) -> None:
    """Stay again and again, each time under another name and key."""
    config = NodeConfig(
        arguments.url,
        arguments.name,
        Span.parse(arguments.span),
        arguments.model,
        Room(free_memory()),
        threads=1,
        identity=Identity.fresh(),
        on_battery=True,
    )
    loaded = None
    for number in count():
        if liar:
            liar[0].told, liar[0].honest = 0, arguments.honest
        named = NodeConfig(**{**vars(config), "name": f"{arguments.name}-{number}", "identity": Identity.fresh()})
        loaded = await stay(named, liar, arguments.most, loaded)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("span")
    parser.add_argument("--attack", choices=LIES, default="zeros")
    parser.add_argument("--model", type=Path)
    parser.add_argument("--name", default="hostile")
    parser.add_argument("--honest", type=int, default=0, help="honest steps before the first lie")
    parser.add_argument("--most", type=int, default=400, help="lies after which a stay ends if the node is not caught")
    parser.add_argument("--plain", action="store_true", help="use the plain weight layout")
    asyncio.run(run(parser.parse_args()))


if __name__ == "__main__":
    main()
