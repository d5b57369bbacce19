"""The coordinator alone: hidden rows a second that it relays, how long it holds each, and its memory.

    python benchmarks/coordinator.py [--layers 40] [--hidden 3072] [--streams 32] [--seconds 8]

`potluck serve` serves a model that has metadata but no weights. Its nodes are simulated, one layer each, all in one
process, and answer at once: every node passes on the rows that it gets, and the last one gives the next token. With 40
layers a token is 39 relayed frames and one sampled, streamed token, so that relaying is nearly all of the work. All
clients' answers are known beforehand, and the last node compares every byte of the rows that reach it.

"Latency" runs from a node's sending of a frame until the next node has it, at half of the load that was reached before.
It holds two passages through the loopback device and the simulation's own queues, so that it is an upper bound.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import resource
import struct
import time
from collections.abc import Sequence
from contextlib import ExitStack
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import uvloop
from gguf import GGUFWriter, TokenType

from common import (
    ask,
    begin,
    check_answers,
    open_client,
    percentile,
    print_aim,
    print_json,
    print_table,
    temporary_cache,
)
from potluck.local import LocalSwarm
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

FIRST_TOKEN, TOKENS = ord("a"), 26
"""Tokens are bytes here; answers go through the alphabet, round and round."""

GREETING = Greeting(PROTOCOL_VERSION, bytes(NONCE_BYTES))

ANSWER = 48
MIB = 1 << 20


def write_model(path: Path, layers: int, hidden: int) -> None:
    """What a coordinator reads of a model: metadata, tokenizer, and tensors, here of no use to any engine."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    tokens = [chr(byte) if byte in printable else chr(256 + others.index(byte)) for byte in range(256)]
    tokens += ["th", "<|endoftext|>"]
    writer = GGUFWriter(path, "gptneox")
    writer.add_block_count(layers)
    writer.add_context_length(2048)
    writer.add_embedding_length(hidden)
    writer.add_feed_forward_length(hidden)
    writer.add_head_count(hidden // 64)
    writer.add_rope_dimension_count(16)
    writer.add_parallel_residual(True)
    writer.add_layer_norm_eps(1e-5)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([*[TokenType.NORMAL] * (len(tokens) - 1), TokenType.CONTROL])
    writer.add_token_merges(["t h"])
    writer.add_bos_token_id(len(tokens) - 1)
    writer.add_eos_token_id(len(tokens) - 1)
    writer.add_add_bos_token(False)
    writer.add_tensor("token_embd.weight", np.zeros((len(tokens), 32), np.float32))
    writer.add_tensor("output.weight", np.zeros((len(tokens), 32), np.float32))
    for layer in range(layers):
        writer.add_tensor(f"blk.{layer}.attn_qkv.weight", np.zeros(32, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def next_token(token: int) -> int:
    return FIRST_TOKEN + (token - FIRST_TOKEN + 1) % TOKENS


def expected_text(prompt: Sequence[int], tokens: int) -> str:
    letters, token = [], prompt[-1]
    for _ in range(tokens):
        token = next_token(token)
        letters.append(chr(token))
    return "".join(letters)


# The simulated nodes: a process of their own


class Simulation:
    """What all nodes share. rate: tokens/s that the first stage lets pass; None: as many as come."""

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
        self.ready = 0
        self.lost = 0
        self._slot = 0.0
        self._random = random.Random(0)

    def after_pause(self, send: Any, *arguments: object) -> None:
        """Now, or at the moment that the rate allows; moments are random, as users are."""
        if self.rate is None:
            send(*arguments)
            return
        loop = asyncio.get_running_loop()
        self._slot = max(self._slot, loop.time() - 0.1) + self._random.expovariate(self.rate)
        loop.call_at(self._slot, send, *arguments)

    def release(self) -> None:
        self.holding = False
        for node, step, payload in self.held:
            node.score(step, payload)
        self.held.clear()

    def report(self) -> dict[str, Any]:
        """All so far; latencies since the last report."""
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


class Node(asyncio.Protocol):
    """A web-socket client of the fewest calls, so that the coordinator is what limits. Its mask is all zeros."""

    def __init__(self, simulation: Simulation, layer: int) -> None:
        self._simulation = simulation
        self._layer = layer
        self._identity = Identity.fresh()
        self._last = layer == simulation.layers - 1
        self._open = False
        self._buffer = bytearray()

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        host, port = transport.get_extra_info("peername")[:2]
        transport.write(
            f"GET /node HTTP/1.1\r\nHost: {host}:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )

    def connection_lost(self, _: Exception | None) -> None:
        self._simulation.lost += 1

    def data_received(self, data: bytes) -> None:
        moment = time.perf_counter()
        self._buffer += data
        if not self._open:
            head, found, rest = bytes(self._buffer).partition(b"\r\n\r\n")
            if not found:
                return
            assert head.startswith(b"HTTP/1.1 101"), head
            self._open, self._buffer = True, bytearray(rest)
            self._send(encode(GREETING))
        for kind, payload in self._frames():
            if kind == 2:
                self._take(payload, moment)
            elif kind == 9:
                self._send(payload, kind=10)

    def _frames(self) -> list[tuple[int, bytes]]:
        """Complete ones, with their kinds; what is left stays in the buffer."""
        buffer, start, frames = self._buffer, 0, []
        while len(buffer) - start >= 2:
            kind, size, body = buffer[start] & 15, buffer[start + 1], start + 2
            if size == 126:
                body += 2
                size = int.from_bytes(buffer[start + 2 : body])
            elif size == 127:
                body += 8
                size = int.from_bytes(buffer[start + 2 : body])
            if len(buffer) < body + size:
                break
            frames.append((kind, bytes(memoryview(buffer)[body : body + size])))
            start = body + size
        if start:
            self._buffer = buffer[start:]
        return frames

    def _send(self, frame: bytes, kind: int = 2) -> None:
        size = len(frame)
        if size < 126:
            head = struct.pack(">BBI", 128 | kind, 128 | size, 0)
        elif size < 1 << 16:
            head = struct.pack(">BBHI", 128 | kind, 128 | 126, size, 0)
        else:
            head = struct.pack(">BBQI", 128 | kind, 128 | 127, size, 0)
        self._transport.write(head + frame)

    def _take(self, frame: bytes, moment: float) -> None:
        message, payload = decode_from_coordinator(frame)
        simulation = self._simulation
        if isinstance(message, Step):
            if self._layer:
                begun = simulation.sent.pop((message.session, message.step), None)
                if begun is not None:
                    simulation.latencies.append(moment - begun)
            if self._last:
                self._end(message, bytes(payload))
            elif self._layer:
                self._pass_on(message, payload)
            else:
                rows = b"".join(simulation.rows[token] for token in np.frombuffer(payload, "<i4").tolist())
                simulation.after_pause(self._pass_on, message, rows)
        elif isinstance(message, Ping):
            self._send(encode(Pong(message.number, 0), payload))
        elif isinstance(message, Challenge):
            span = Span(self._layer, self._layer)
            hello = Hello(f"layer {self._layer}", "simulated", "", span, 1 << 40, 1)
            self._send(encode(sign_hello(hello, self._identity, GREETING, message)))
        elif isinstance(message, Welcome):
            ready = Ready(Capacity(4096, 1 << 24, 576), Speed(0.001, 0.0001), "", "optimised")
            self._send(encode(ready))
        elif isinstance(message, Refusal):
            raise AssertionError(message.reason)

    def _pass_on(self, step: Step, payload: bytes | memoryview) -> None:
        simulation = self._simulation
        frame = encode(Hidden(step.session, step.route, step.step, step.rows, 0.0, 0.0), payload)
        simulation.hidden += 1
        simulation.nbytes += len(frame)
        simulation.sent[step.session, step.step] = time.perf_counter()
        self._send(frame)

    def _end(self, step: Step, payload: bytes) -> None:
        if self._simulation.holding:
            self._simulation.held.append((self, step, payload))
        else:
            self.score(step, payload)

    def score(self, step: Step, payload: bytes) -> None:
        """The token that follows the last row's, whose rows must be what the first node sent."""
        size = len(payload) // step.rows
        rows = [payload[start : start + size] for start in range(0, len(payload), size)]
        tokens = [int(np.frombuffer(row, "<f4", 1)[0]) for row in rows]
        self._simulation.wrong += any(
            row != self._simulation.rows.get(token) for token, row in zip(tokens, rows, strict=True)
        )
        wanted = tokens[len(tokens) - len(step.asks) :]
        scores = [(np.array([next_token(token)], np.int32), np.zeros(1, np.float32), 0.0) for token in wanted]
        message = Scores(step.session, step.route, step.step, (1,) * len(wanted), 0.0, 0.0)
        self._send(encode(message, pack_scores(scores)))


def simulate(url: str, layers: int, hidden: int, pipe: Connection) -> None:
    """The process's main. Commands come through the pipe as (name, argument); each is answered with a report."""

    async def run() -> None:
        loop = asyncio.get_running_loop()
        simulation = Simulation(layers, hidden)
        host, port = httpx.URL(url).host, httpx.URL(url).port
        count = 0
        while True:
            command, argument = await asyncio.to_thread(pipe.recv)
            match command:
                case "connect":
                    while count < argument:
                        layer = count % layers
                        await loop.create_connection(lambda layer=layer: Node(simulation, layer), host, port)
                        count += 1
                case "rate":
                    simulation.rate = argument
                case "hold":
                    simulation.holding = True
                case "release":
                    simulation.release()
                case "end":
                    return
            pipe.send(simulation.report())

    uvloop.run(run())


class Nodes:
    """The simulation as the benchmark's own process sees it."""

    def __init__(self, swarm: LocalSwarm, layers: int, hidden: int) -> None:
        context = get_context("spawn")
        self._swarm = swarm
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=simulate, args=(swarm.url, layers, hidden, theirs), daemon=True)
        self._process.start()

    def tell(self, command: str, argument: object = None) -> dict[str, Any]:
        self._pipe.send((command, argument))
        if not self._pipe.poll(120.0):
            raise TimeoutError("The simulated nodes do not answer.")
        reply: dict[str, Any] = self._pipe.recv()
        return reply

    def connect(self, count: int) -> None:
        """Until so many serve."""
        self.tell("connect", count)
        self._swarm.wait_until(lambda status: [one["state"] for one in status["nodes"]].count("ready") == count)

    def end(self) -> None:
        if self._process.is_alive():
            self._pipe.send(("end", None))
            self._process.join(10.0)
        self._process.terminate()


# The load


def ask_for(
    url: str, model: str, streams: int, seconds: float, nodes: Nodes, coordinator: psutil.Process
) -> dict[str, float]:
    """One answer after the other in so many streams. Figures of the time between a warm-up and the end."""

    async def one(client: httpx.AsyncClient, number: int, deadline: float) -> None:
        prompt = [FIRST_TOKEN + number % TOKENS]
        while time.perf_counter() < deadline:
            answer = await ask(client, model, prompt, ANSWER)
            check_answers([answer.text], [expected_text(prompt, ANSWER)], "a stream")

    async def run() -> dict[str, float]:
        async with open_client(url) as client:
            deadline = time.perf_counter() + seconds + 1.5
            tasks = [asyncio.create_task(one(client, number, deadline)) for number in range(streams)]
            await asyncio.sleep(1.0)
            before, cpu_before = nodes.tell("report"), coordinator.cpu_times()
            await asyncio.sleep(seconds)
            after, cpu_after = nodes.tell("report"), coordinator.cpu_times()
            await asyncio.gather(*tasks)
        wall = after["moment"] - before["moment"]
        cpu = cpu_after.user + cpu_after.system - cpu_before.user - cpu_before.system
        frames, nbytes = after["hidden"] - before["hidden"], after["nbytes"] - before["nbytes"]
        check_answers([after["wrong"], after["lost"]], [0, 0], "the simulated nodes (rows that differ, nodes lost)")
        return {
            "frames_per_s": frames / wall,
            "mb_per_s": nbytes / wall / 1e6,
            "frames_per_cpu_s": frames / cpu,
            "mb_per_cpu_s": nbytes / cpu / 1e6,
            "coordinator_cores": cpu / wall,
            "simulation_cores": (after["cpu_s"] - before["cpu_s"]) / wall,
            "latency_p50_s": after["latency_p50_s"],
            "latency_p99_s": after["latency_p99_s"],
        }

    return asyncio.run(run())


def hold_sessions(
    url: str, model: str, sessions: int, nodes: Nodes, coordinator: psutil.Process
) -> tuple[float, float]:
    """MiB of the coordinator while so many sessions are open, and seconds until they were."""

    async def run() -> tuple[float, float]:
        nodes.tell("hold")
        prompts = [[FIRST_TOKEN + number % TOKENS] * 4 for number in range(sessions)]
        begun = time.perf_counter()
        async with open_client(url) as client:
            tasks = [asyncio.create_task(ask(client, model, prompt, 2)) for prompt in prompts]
            while nodes.tell("report")["held"] < sessions:
                await asyncio.sleep(0.2)
                if any(task.done() for task in tasks) or time.perf_counter() - begun > 120:
                    break
            opened_s, memory = time.perf_counter() - begun, coordinator.memory_info().rss / MIB
            nodes.tell("release")
            texts = [answer.text for answer in await asyncio.gather(*tasks)]
        check_answers(texts, [expected_text(prompt, 2) for prompt in prompts], f"{sessions} sessions")
        return memory, opened_s

    return asyncio.run(run())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=40)
    parser.add_argument("--hidden", type=int, default=3072, help="values a row; 4 bytes each")
    parser.add_argument("--streams", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--nodes", type=int, default=1000, help="connected, for the memory")
    parser.add_argument("--sessions", type=int, default=1000, help="open, for the memory")
    options = parser.parse_args()
    begin()
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    full, half = [], []
    with ExitStack() as stack:
        path = stack.enter_context(temporary_cache()) / "weightless.gguf"
        write_model(path, options.layers, options.hidden)
        swarm = stack.enter_context(LocalSwarm(path, [], serve=["--local", "--rows", "f32"]))
        coordinator = psutil.Process(swarm.coordinator.popen.pid)
        nodes = Nodes(swarm, options.layers, options.hidden)
        stack.callback(nodes.end)
        model = swarm.status()["model"]
        memory = {"alone": coordinator.memory_info().rss / MIB}
        nodes.connect(options.layers)
        memory[f"{options.layers} nodes"] = coordinator.memory_info().rss / MIB
        for _ in range(options.rounds):
            nodes.tell("rate", None)
            full.append(ask_for(swarm.url, model, options.streams, options.seconds, nodes, coordinator))
            nodes.tell("rate", full[-1]["frames_per_s"] / (options.layers - 1) / 2)
            half.append(ask_for(swarm.url, model, 2 * options.streams, options.seconds, nodes, coordinator))
        nodes.tell("rate", None)
        memory["after the load"] = coordinator.memory_info().rss / MIB
        nodes.connect(options.nodes)
        memory[f"{options.nodes} nodes"] = coordinator.memory_info().rss / MIB
        held, opened_s = hold_sessions(swarm.url, model, options.sessions, nodes, coordinator)
        memory[f"{options.nodes} nodes, {options.sessions} open sessions"] = held
    figures = {
        name: {key: float(np.median([one[key] for one in rounds])) for key in rounds[0]}
        for name, rounds in (("full load", full), ("half load", half))
    }
    print_table(
        ["", "frames/s", "MB/s", "per CPU second", "MB", "cores", "simulation's", "latency p50", "p99"],
        [
            [
                name,
                *(f"{one[key]:.0f}" for key in ("frames_per_s", "mb_per_s", "frames_per_cpu_s", "mb_per_cpu_s")),
                *(f"{one[key]:.2f}" for key in ("coordinator_cores", "simulation_cores")),
                *(f"{1e3 * one[key]:.3f} ms" for key in ("latency_p50_s", "latency_p99_s")),
            ]
            for name, one in figures.items()
        ],
    )
    print_table(["memory", "MiB"], [[name, f"{size:.0f}"] for name, size in memory.items()])
    print(f"{options.sessions} sessions were open after {opened_s:.1f} s.")
    relayed, calm = figures["full load"], figures["half load"]
    ratios = {
        "frames_per_s": print_aim("frames/s", relayed["frames_per_s"], at_least=20_000),
        "frames_per_cpu_s": print_aim("frames/s per core", relayed["frames_per_cpu_s"], at_least=20_000),
        "latency_p50_ms": print_aim("ms of latency at half load, p50", 1e3 * calm["latency_p50_s"], below=0.3),
        "latency_p99_ms": print_aim("ms of latency at half load, p99", 1e3 * calm["latency_p99_s"], below=1),
    }
    print_json(
        "coordinator",
        layers=options.layers,
        frame_bytes=4 * options.hidden,
        streams=options.streams,
        figures=figures,
        rounds={"full": full, "half": half},
        memory_mib=memory,
        sessions_opened_s=opened_s,
        ratios=ratios,
        answers_equal=True,
    )


if __name__ == "__main__":
    main()
