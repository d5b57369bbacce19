"""Simulated nodes of one layer each, which pass rows on as they come; the last one names the next token."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import psutil

from bench.rounds import percentile
from potluck.types import Capacity, Span, Speed
from potluck.wire.codec import decode_from_coordinator, encode
from potluck.wire.handshake import NONCE_BYTES, sign_hello
from potluck.wire.identity import Identity
from potluck.wire.messages import (
    PROTOCOL_VERSION,
    Challenge,
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


class Simulation:
    """The state that all nodes share. rate: the tokens/s that the first stage lets pass; None stands for all."""

    def __init__(self, layers: int, hidden: int) -> None:
        self.layers = layers
        values = np.random.default_rng(0).standard_normal((TOKENS, hidden)).astype("<f4")
        values[:, 0] = range(FIRST_TOKEN, FIRST_TOKEN + TOKENS)
        self.rows = {FIRST_TOKEN + index: row.tobytes() for index, row in enumerate(values)}
        self.rate: float | None = None
        self.holding = False
        self.held: list[tuple[Node, Step, bytes]] = []
        self.hidden = 0
        self.nbytes = 0
        self.wrong = 0
        self.sent: dict[tuple[int, int], float] = {}
        self.latencies: list[float] = []
        self.lost = 0
        self._slot = 0.0
        self._random = random.Random(0)

    def after_pause(self, send: Callable[[], None]) -> None:
        """Send now, or at the moment that the rate allows. Moments are random, as users are."""
        if self.rate is None:
            send()
            return
        loop = asyncio.get_running_loop()
        self._slot = max(self._slot, loop.time() - 0.1) + self._random.expovariate(self.rate)
        loop.call_at(self._slot, send)

    def release(self) -> None:
        self.holding = False
        for node, step, payload in self.held:
            node.score(step, payload)
        self.held.clear()

    def report(self) -> dict[str, Any]:
        """All that was counted so far, and the latencies since the last report."""
        latencies, self.latencies = self.latencies, []
        used = psutil.Process().cpu_times()
        return {
            "moment": time.perf_counter(),
            "cpu_s": used.user + used.system,
            "hidden": self.hidden,
            "nbytes": self.nbytes,
            "wrong": self.wrong,
            "held": len(self.held),
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

    def opened(self) -> None:
        self.send(encode(GREETING))

    def lost(self) -> None:
        self._simulation.lost += 1

    def received(self, frame: bytes, moment: float) -> None:
        message, payload = decode_from_coordinator(frame)
        match message:
            case Step():
                self._step(message, payload, moment)
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

    def _step(self, step: Step, payload: memoryview, moment: float) -> None:
        simulation = self._simulation
        if self._layer:
            begun = simulation.sent.pop((step.session, step.step), None)
            if begun is not None:
                simulation.latencies.append(moment - begun)
        if self._last:
            self._end(step, bytes(payload))
        elif self._layer:
            self._pass_on(step, payload)
        else:
            rows = b"".join(simulation.rows[token] for token in np.frombuffer(payload, "<i4").tolist())
            simulation.after_pause(lambda: self._pass_on(step, rows))

    def _pass_on(self, step: Step, payload: bytes | memoryview) -> None:
        simulation = self._simulation
        frame = encode(Hidden(step.session, step.route, step.step, step.rows, 0.0, 0.0), payload)
        simulation.hidden += 1
        simulation.nbytes += len(frame)
        simulation.sent[step.session, step.step] = time.perf_counter()
        self.send(frame)

    def _end(self, step: Step, payload: bytes) -> None:
        if self._simulation.holding:
            self._simulation.held.append((self, step, payload))
        else:
            self.score(step, payload)

    def score(self, step: Step, payload: bytes) -> None:
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
        self.send(encode(message, pack_scores(scores)))
