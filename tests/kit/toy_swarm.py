"""A swarm with nodes in this process that compute a toy model."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from copy import copy
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from kit.gateways import gateway_of
from kit.newcomer import introduce, reception
from kit.waiting import until
from potluck.coordinator.audits.audits import Audits
from potluck.coordinator.compose import SwarmService, compose_swarm
from potluck.coordinator.gateway.lobby import new_lobby
from potluck.coordinator.gateway.terms import Terms
from potluck.coordinator.generation.job import Delta, Job
from potluck.coordinator.generation.sampling import SamplingParams
from potluck.coordinator.swarm.swarm import Swarm
from potluck.errors import LinkClosed
from potluck.planning.cost import Footprint
from potluck.types import (
    MAX_STEP_ROWS,
    Attention,
    Capacity,
    EngineKind,
    Quantize,
    RowFormat,
    Span,
    Speed,
)
from potluck.wire.codec import decode_from_coordinator, encode
from potluck.wire.identity import Identity
from potluck.wire.link import MemoryLink
from potluck.wire.messages import (
    Close,
    Export,
    Exported,
    Failed,
    Hello,
    Hidden,
    Import,
    Imported,
    Kept,
    Notice,
    Ping,
    Pong,
    Ready,
    Recall,
    Released,
    Scores,
    Step,
    Welcome,
)
from potluck.wire.rows import pack_ids, pack_rows, pack_scores, unpack_ids, unpack_rows

LAYERS, WIDTH = 4, 1
LETTERS = "abcdefghijklmnopqrstuvwxyz"
END = len(LETTERS)
VOCABULARY = END + 1


class Letters:
    """A tokenizer: a token a letter, and one that ends the answer."""

    vocabulary = VOCABULARY
    stop_ids = frozenset({END})
    bos = eos = ""
    chat_template = None
    tool_template = None

    def encode(self, text: str, *, special: bool, bos: bool) -> list[int]:
        return [LETTERS.index(letter) for letter in text]

    def piece(self, token: int, *, special: bool = False) -> bytes:
        return b"" if token == END else LETTERS[token].encode()

    def name(self, token: int) -> str:
        return "<end>" if token == END else LETTERS[token]


TOKENIZER = Letters()


def toy_logits(history: list[int]) -> npt.NDArray[np.float32]:
    """The toy model: the next token follows from the sum of all so far; the others come behind it in order."""
    best = (sum(history) + 3 * len(history) + 1) % VOCABULARY
    return -((np.arange(VOCABULARY) - best) % VOCABULARY).astype(np.float32)


def toy_logprobs(history: list[int]) -> npt.NDArray[np.float64]:
    logits = toy_logits(history).astype(np.float64)
    logprobs: npt.NDArray[np.float64] = logits - np.log(np.exp(logits).sum())
    return logprobs


def toy_answer(prompt: str, count: int) -> str:
    """What greedy decoding gives without any swarm."""
    history = TOKENIZER.encode(prompt, special=True, bos=True)
    for _ in range(count):
        token = int(toy_logits(history).argmax())
        if token == END:
            break
        history.append(token)
    return "".join(LETTERS[token] for token in history[len(prompt) :])


class FewLetters:
    """Stands in for a grammar, and for the constraint of an answer: `cab` in any order, four letters long."""

    def __init__(self) -> None:
        self.left = 4

    def start(self) -> FewLetters:
        return FewLetters()

    def allowed(self) -> np.ndarray:
        return np.array([0, 1, 2], np.int32)

    def accept(self, token: int) -> None:
        self.left -= 1

    def copy(self) -> FewLetters:
        return copy(self)

    @property
    def is_complete(self) -> bool:
        return not self.left


class Rhyme(FewLetters):
    """Stands in for a grammar that often leaves no choice: after each letter among three, the one that follows it."""

    def __init__(self) -> None:
        self.left = 12
        self._latest = 0

    def start(self) -> Rhyme:
        return Rhyme()

    def allowed(self) -> np.ndarray:
        return np.array([0, 1, 2] if self.left % 3 == 0 else [self._latest + 1], np.int32)

    def accept(self, token: int) -> None:
        assert token in self.allowed()
        super().accept(token)
        self._latest = token


class Node:
    """Serves a span of the toy model: rows carry the token, and the last stage keeps each session's tokens."""

    def __init__(self, service: SwarmService, span: Span, positions: int = 1000, twin: str = "") -> None:
        self.link, theirs = MemoryLink.pair()
        self.twin = twin
        self.gives = self.takes = True
        self.fragile = False
        self.span = span
        self.identity = Identity.fresh()
        self.capacity = Capacity(8, positions, MAX_STEP_ROWS)
        self.name = ""
        self.cache: dict[int, list[int]] = {}
        self.steps: list[int] = []
        self.recalls: list[int] = []
        self.notices: list[str] = []
        self.forgetful = self.released = False
        self.before: Callable[[Step], Awaitable[None]] | None = None
        self.closed = asyncio.Event()
        self.failing = False
        self.gone = False
        self.tasks = [asyncio.create_task(gateway_of(service).serve(theirs)), asyncio.create_task(self._run())]

    async def _run(self) -> None:
        hello = Hello("toy", "0.1", "", self.span, 1 << 40, 1)
        await introduce(self.link, hello, self.identity)
        with suppress(LinkClosed):
            while True:
                await self._handle(*decode_from_coordinator(await self.link.receive()))
        self.gone = True

    async def _handle(self, message: object, payload: memoryview) -> None:
        match message:
            case Welcome():
                self.name = message.node
                await self.link.send(encode(Ready(self.capacity, Speed(0.01, 0.001), self.twin, "")))
            case Export(session):
                state = pack_ids(np.array(self.cache[session], np.int32)) if self.gives else b""
                await self.link.send(encode(Exported(session, 0), state))
            case Import() if self.fragile:
                await self.link.close()
            case Import(session):
                if self.takes:
                    self.cache[session] = unpack_ids(payload, len(payload) // 4).tolist()
                await self.link.send(encode(Imported(session, len(self.cache.get(session, [])))))
            case Close(session):
                self.cache.pop(session, None)
                self.closed.set()
            case Ping(number):
                await self.link.send(encode(Pong(number, len(self.cache)), payload))
            case Released():
                self.released = True
            case Notice(text):
                self.notices.append(text)
            case Recall():
                self.recalls.append(message.rows)
                await self.link.send(self._recalled(message))
            case Step():
                self.steps.append(message.rows)
                if self.before is not None:
                    await self.before(message)
                await self.link.send(self._answer(message, payload))

    def _recalled(self, recall: Recall) -> bytes:
        """Rows carry the token, so that the cache is the journal as well."""
        tokens = self.cache.get(recall.session, [])[recall.position : recall.position + recall.rows]
        if self.forgetful or len(tokens) < recall.rows:
            return encode(
                Failed(recall.session, recall.route, recall.step, "The journal does not reach that far back.")
            )
        rows = pack_rows(np.array(tokens, np.float32)[:, None], RowFormat.F32)
        return encode(Hidden(recall.session, recall.route, recall.step, recall.rows, 0.0, 0.0), rows)

    def _answer(self, step: Step, payload: memoryview) -> bytes:
        history = self.cache.setdefault(step.session, [])
        del history[step.position :]
        if len(history) != step.position or self.failing:
            return encode(Failed(step.session, step.route, step.step, f"Position {step.position} does not follow."))
        if self.span.first == 0:
            tokens = unpack_ids(payload, step.rows).tolist()
        else:
            tokens = unpack_rows(payload, step.rows, WIDTH, RowFormat.F32)[:, 0].astype(int).tolist()
        history += tokens
        if step.keep:
            return encode(Kept(step.session, step.route, step.step, 0.0, 0.0))
        if step.last < LAYERS - 1:
            rows = np.array(tokens, np.float32)[:, None]
            return encode(
                Hidden(step.session, step.route, step.step, step.rows, 0.0, 0.0), pack_rows(rows, RowFormat.F32)
            )
        scored = []
        for index, ask in enumerate(step.asks):
            logprobs = toy_logprobs(history[: len(history) - len(step.asks) + index + 1])
            ids = np.union1d(np.argsort(-logprobs, kind="stable")[: step.top], ask).astype(np.int32)
            scored.append((ids, logprobs[ids].astype(np.float32), 0.0))
        counts = tuple(len(ids) for ids, _, _ in scored)
        return encode(Scores(step.session, step.route, step.step, counts, 0.0, 0.0), pack_scores(scored))

    def die_with(self, step: int) -> Callable[[Step], Awaitable[None]]:
        """As `before`: the node is gone instead of answering this step, counted from 1."""

        async def die(_: Step) -> None:
            if len(self.steps) == step:
                await self.link.close()

        return die

    async def leave(self) -> None:
        await self.link.close()
        await asyncio.gather(*self.tasks)


def make_service(audits: Audits | None = None) -> SwarmService:
    """A coordinator of the toy model, without a node yet."""
    swarm = Swarm("d", Footprint((1,) * LAYERS, 0, 0))
    terms = Terms("d", EngineKind.LLAMACPP, Quantize.NONE, Attention.EXACT, RowFormat.F32, 1000)
    return compose_swarm(terms, swarm, new_lobby(reception()), width=WIDTH, vocabulary=VOCABULARY, audits=audits)


@asynccontextmanager
async def toy_swarm(
    *spans: str, positions: int = 1000, twin: str = ""
) -> AsyncIterator[tuple[SwarmService, list[Node]]]:
    """A swarm with a node a span. At the end nodes that are still there hold parked sessions only, as reserved."""
    service = make_service()
    nodes = [Node(service, Span.parse(span), positions, twin) for span in spans]
    await until(lambda: sum(service.swarm.served()) == sum(len(node.span) for node in nodes))
    yield service, nodes
    assert all(node.open_sessions == 0 for node in service.swarm.nodes.values())
    for node in nodes:
        await until(lambda node=node: node.gone or fits(lengths(node), promised(service, node)))  # type: ignore[misc]
        await node.leave()


def fits(held: dict[int, int], promised: dict[int, int]) -> bool:
    """Whether a node holds the sessions for which it has promised room, and no more of them than that."""
    return held.keys() == promised.keys() and all(held[session] <= promised[session] for session in held)


def lengths(node: Node) -> dict[int, int]:
    return {session: len(tokens) for session, tokens in node.cache.items()}


def promised(service: SwarmService, node: Node) -> dict[int, int]:
    return service.swarm.nodes[node.name].reserved


def job(prompt: str = "potluck", max_tokens: int = 8, **changes: Any) -> Job:
    params = SamplingParams(temperature=0, **changes.pop("params", {}))
    return replace(
        Job(prompt=TOKENIZER.encode(prompt, special=True, bos=True), params=params, max_tokens=max_tokens), **changes
    )


async def answer(service: SwarmService, one: Job) -> list[Delta]:
    return [delta async for delta in service.generation(TOKENIZER).answer(one)]


def text(deltas: list[Delta]) -> str:
    return "".join(delta.text for delta in deltas)
