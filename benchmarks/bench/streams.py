"""A client that notes when each token comes, and compares answers."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import httpx

from bench.prompts import Prompt


@dataclass
class Stream:
    """One streamed answer: its text, when it was asked for, and when each token came (by `time.perf_counter`)."""

    begin: float
    text: str = ""
    moments: list[float] = field(default_factory=list)

    @property
    def first_s(self) -> float:
        return self.moments[0] - self.begin

    @property
    def gaps(self) -> list[float]:
        return [later - sooner for sooner, later in pairwise(self.moments)]


def tokens_per_s(streams: Sequence[Stream]) -> float:
    """The speed of all streams together, from the first request to the last token, so that prompts count."""
    seconds = max(stream.moments[-1] for stream in streams) - min(stream.begin for stream in streams)
    return sum(len(stream.moments) for stream in streams) / seconds


def all_gaps(streams: Sequence[Stream]) -> list[float]:
    """The seconds between the tokens of each stream."""
    return [gap for stream in streams for gap in stream.gaps]


def request(model: str, prompt: Prompt, tokens: int) -> dict[str, object]:
    return {
        "model": model,
        "prompt": prompt,
        "max_tokens": tokens,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
    }


def open_client(url: str, key: str = "") -> httpx.AsyncClient:
    """A client that holds as many connections as it is asked for. key: its API key; empty without one."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    return httpx.AsyncClient(base_url=url, timeout=600.0, limits=limits, headers=headers, trust_env=False)


async def ask(client: httpx.AsyncClient, model: str, prompt: Prompt, tokens: int) -> Stream:
    """Ask for a streamed answer. Ends the program if the answer is an error or has another length."""
    answer, texts = Stream(time.perf_counter()), []
    for moment, body in await events(client, request(model, prompt, tokens)):
        texts.append(body["choices"][0]["text"])
        answer.moments.append(moment)
    if len(answer.moments) != tokens:
        sys.exit(f"{len(answer.moments)} tokens came where {tokens} were asked for.")
    answer.text = "".join(texts)
    return answer


async def events(client: httpx.AsyncClient, body: dict[str, object]) -> list[tuple[float, dict[str, Any]]]:
    """The events of a streamed answer and when each came. Ends the program if the answer is an error.

    They are parsed only when the answer is complete: while tokens come, the client leaves the cores to the nodes.
    """
    pieces: list[tuple[float, bytes]] = []
    async with client.stream("POST", "/v1/completions", json=body) as reply:
        async for piece in reply.aiter_raw():
            pieces.append((time.perf_counter(), piece))
    if reply.status_code != 200:
        sys.exit(f"The server answered with status {reply.status_code}: {b''.join(p for _, p in pieces)!r}")
    return list(_parsed(pieces))


def _parsed(pieces: list[tuple[float, bytes]]) -> Iterator[tuple[float, dict[str, Any]]]:
    buffer = b""
    for moment, piece in pieces:
        *whole, buffer = (buffer + piece).split(b"\n\n")
        for event in whole:
            data = event.rpartition(b"\n")[2]  # an id may stand before it
            if data.startswith(b"data: {"):
                body = json.loads(data[6:])
                if "error" in body:
                    sys.exit(f"An answer broke off: {body['error']['message']}")
                yield moment, body


def ask_together(url: str, model: str, prompts: Sequence[Prompt], tokens: int) -> list[Stream]:
    """Ask for an answer to each prompt, all at once."""

    async def run() -> list[Stream]:
        async with open_client(url) as client:
            return await asyncio.gather(*(ask(client, model, prompt, tokens) for prompt in prompts))

    return asyncio.run(run())


def ask_in_turn(url: str, model: str, prompts: Sequence[Prompt], tokens: int) -> list[Stream]:
    """Ask for an answer to each prompt, one after the other."""

    async def run() -> list[Stream]:
        async with open_client(url) as client:
            return [await ask(client, model, prompt, tokens) for prompt in prompts]

    return asyncio.run(run())


def ask_whole(url: str, model: str, prompt: Prompt, tokens: int) -> tuple[float, str]:
    """The seconds and the text of an answer that is not streamed."""
    body = {**request(model, prompt, tokens), "stream": False}
    began = time.perf_counter()
    reply = httpx.post(f"{url}/v1/completions", json=body, timeout=600.0, trust_env=False)
    seconds = time.perf_counter() - began
    if reply.status_code != 200:
        sys.exit(f"The coordinator answered with status {reply.status_code}: {reply.text}")
    return seconds, reply.json()["choices"][0]["text"]


def check_answers(answers: Sequence[object], alone: Sequence[object], what: str) -> None:
    """End the program if an answer is not the one that the model gives when it is asked nothing else."""
    for number, (answer, expected) in enumerate(zip(answers, alone, strict=True)):
        if answer != expected:
            sys.exit(f"Answer {number} of {what} differs from the same answer alone: {answer!r}, not {expected!r}.")
