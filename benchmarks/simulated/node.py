"""Simulated nodes of one layer each, which pass rows on as they come; the last one names the next token.

A bundle is answered with one bundle, as nodes answer a batch. The first stage decides how many steps go together.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import psutil

from bench.rounds import percentile
from potluck.types import Capacity, Span, Speed
from potluck.wire.bundles import bundle, unbundle
from potluck.wire.codec import decode_from_coordinator, encode
from potluck.wire.handshake import NONCE_BYTES, sign_hello
from potluck.wire.identity import Identity
from potluck.wire.messages import (
    PROTOCOL_VERSION,
    Challenge,
    FromCoordinator,
    Greeting,
    Hello,
    Hidden,
    Ping,
    Pong,
    Ready,
    Refusal,
    Scores,
    Step,
    Welcome,
)
from potluck.wire.rows import pack_scores
from simulated.model import FIRST_TOKEN, TOKENS, next_token
from simulated.websocket import WebSocket

GREETING = Greeting(PROTOCOL_VERSION, bytes(NONCE_BYTES))


_PATIENCE_S = 0.05
"""Seconds that the first stage waits for more steps. They end a measurement, when fewer sessions are left."""


class Simulation:
    """The state that all nodes share.

    rate: the tokens/s that the first stage lets pass; None stands for all. together: the steps that it sends as one
    bundle. At 1 all frames of all nodes travel alone.
    """

    def __init__(self, layers: int, hidden: int) -> None:
        self.layers = layers
        values = np.random.default_rng(0).standard_normal((TOKENS, hidden)).astype("<f4")
        values[:, 0] = range(FIRST_TOKEN, FIRST_TOKEN + TOKENS)
        self.rows = {FIRST_TOKEN + index: row.tobytes() for index, row in enumerate(values)}
        self.rate: float | None = None
        self.together = 1
        self.holds_first = self.holds_last = False
        """Whether the first and the last stages keep the steps that come to them."""
        self.held_first: list[tuple[Node, Step, bytes]] = []
        self.held_last: list[tuple[Node, Step, bytes]] = []
        self.hidden = 0
        self.messages = 0
        self.nbytes = 0
        self.wrong = 0
        self.sent: dict[tuple[int, int], float] = {}
        self.latencies: list[float] = []
        self.lost = 0
        self._slot = 0.0
        self._random = random.Random(0)

    def after_pause(self, steps: int, send: Callable[[], None]) -> None:
        """Send so many steps now, or at the moment that the rate allows. Moments are random, as users are."""
        if self.rate is None:
            send()
            return
        loop = asyncio.get_running_loop()
        self._slot = max(self._slot, loop.time() - 0.1) + self._random.expovariate(self.rate / steps)
        loop.call_at(self._slot, send)

    def hold(self) -> None:
        self.holds_first = self.holds_last = True

    def release_first(self) -> None:
        self.holds_first = False
        for node, step, payload in self.held_first:
            node.gather(step, payload)
        self.held_first.clear()

    def release_last(self) -> None:
        self.holds_last = False
        for node, step, payload in self.held_last:
            node.answer([node.scores(step, payload)])
        self.held_last.clear()

    def report(self) -> dict[str, Any]:
        """All that was counted so far, and the latencies since the last report."""
        latencies, self.latencies = self.latencies, []
        used = psutil.Process().cpu_times()
        return {
            "moment": time.perf_counter(),
            "cpu_s": used.user + used.system,
            "hidden": self.hidden,
            "messages": self.messages,
            "nbytes": self.nbytes,
            "wrong": self.wrong,
            "held_first": len(self.held_first),
            "held_last": len(self.held_last),
            "lost": self.lost,
            "latency_p50_s": percentile(latencies, 50),
            "latency_p99_s": percentile(latencies, 99),
        }


class Node(WebSocket):
    """A node, as the coordinator meets it."""

    def __init__(self, simulation: Simulation, layer: int) -> None:
        super().__init__()
        self._simulation = simulation
        self._layer = layer
        self._identity = Identity.fresh()
        self._last = layer == simulation.layers - 1
        self._gathered: list[tuple[Step, bytes]] = []
        self._patience: asyncio.TimerHandle | None = None

    def opened(self) -> None:
        self.send(encode(GREETING))

    def lost(self) -> None:
        self._simulation.lost += 1

    def received(self, message: bytes, moment: float) -> None:
        steps: list[tuple[Step, memoryview]] = []
        for frame in unbundle(message):
            one, payload = decode_from_coordinator(frame)
            if isinstance(one, Step):
                steps.append((one, payload))
            else:
                self._talk(one, payload)
        if self._layer:
            self._note(steps, moment)
        self._compute(steps)

    def _talk(self, message: FromCoordinator, payload: memoryview) -> None:
        match message:
            case Ping(number=number):
                self.send(encode(Pong(number, 0), payload))
            case Challenge():
                span = Span(self._layer, self._layer)
                hello = Hello(f"layer {self._layer}", "simulated", "", span, 1 << 40, 1)
                self.send(encode(sign_hello(hello, self._identity, GREETING, message)))
            case Welcome():
                ready = Ready(Capacity(4096, 1 << 24, 576), Speed(0.001, 0.0001), "", "optimised")
                self.send(encode(ready))
            case Refusal(reason=reason):
                raise AssertionError(reason)

    def _note(self, steps: Iterable[tuple[Step, memoryview]], moment: float) -> None:
        """Note how long steps were under way."""
        for step, _ in steps:
            begun = self._simulation.sent.pop((step.session, step.step), None)
            if begun is not None:
                self._simulation.latencies.append(moment - begun)

    def _compute(self, steps: list[tuple[Step, memoryview]]) -> None:
        simulation = self._simulation
        if not self._layer and simulation.holds_first:
            simulation.held_first += [(self, step, bytes(payload)) for step, payload in steps]
        elif not self._layer:
            for step, payload in steps:
                self.gather(step, payload)
        elif not self._last:
            self._pass_on(steps)
        elif simulation.holds_last:
            simulation.held_last += [(self, step, bytes(payload)) for step, payload in steps]
        else:
            self.answer([self.scores(step, payload) for step, payload in steps])

    def gather(self, step: Step, tokens: bytes | memoryview) -> None:
        """Pass the tokens' rows on once there are as many steps as go together."""
        rows = b"".join(self._simulation.rows[token] for token in np.frombuffer(tokens, "<i4").tolist())
        self._gathered.append((step, rows))
        if len(self._gathered) >= self._simulation.together:
            self._let_go()
        elif self._patience is None:
            self._patience = asyncio.get_running_loop().call_later(_PATIENCE_S, self._let_go)

    def _let_go(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
        gathered, self._gathered, self._patience = self._gathered, [], None
        self._simulation.after_pause(len(gathered), lambda: self._pass_on(gathered))

    def _pass_on(self, steps: Sequence[tuple[Step, bytes | memoryview]]) -> None:
        simulation = self._simulation
        frames = [
            encode(Hidden(step.session, step.route, step.step, step.rows, 0.0, 0.0), rows) for step, rows in steps
        ]
        simulation.hidden += len(frames)
        simulation.nbytes += sum(map(len, frames))
        simulation.sent |= dict.fromkeys(((step.session, step.step) for step, _ in steps), time.perf_counter())
        self.answer(frames)

    def answer(self, frames: Iterable[bytes]) -> None:
        """Send frames as one bundle, or each alone."""
        waiting = deque(frames)
        while waiting:
            self._simulation.messages += 1
            self.send(bundle(waiting) if self._simulation.together > 1 else waiting.popleft())

    def scores(self, step: Step, payload: bytes | memoryview) -> bytes:
        """Name the token that follows the last row's. The rows must be what the first node sent."""
        size = len(payload) // step.rows
        rows = [payload[start : start + size] for start in range(0, len(payload), size)]
        tokens = [int(np.frombuffer(row, "<f4", 1)[0]) for row in rows]
        self._simulation.wrong += any(
            row != self._simulation.rows.get(token) for token, row in zip(tokens, rows, strict=True)
        )
        wanted = tokens[len(tokens) - len(step.asks) :]
        scores = [(np.array([next_token(token)], np.int32), np.zeros(1, np.float32), 0.0) for token in wanted]
        message = Scores(step.session, step.route, step.step, (1,) * len(wanted), 0.0, 0.0)
        return encode(message, pack_scores(scores))
