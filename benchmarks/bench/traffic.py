"""Short answers that flow in the background while something else is measured."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import httpx

from bench.prompts import Prompts
from bench.streams import request


@dataclass
class Traffic:
    """Asks for short answers, so many at a time, until the block ends. errors: the answers that broke off."""

    url: str
    model: str
    prompts: Prompts
    prompt: int
    answers: int = 0
    errors: list[str] = field(default_factory=list)
    _stop: bool = False

    async def _stream(self, client: httpx.AsyncClient, tokens: int) -> None:
        while not self._stop:
            [prompt] = self.prompts.take(1, self.prompt)
            body = {**request(self.model, prompt, tokens), "stream": False}
            reply = await client.post("/v1/completions", json=body)
            self.answers += 1
            if reply.status_code != 200:
                self.errors.append(reply.text)

    async def _run(self, streams: int, tokens: int) -> None:
        async with httpx.AsyncClient(base_url=self.url, timeout=120.0, trust_env=False) as client:
            await asyncio.gather(*(self._stream(client, tokens) for _ in range(streams)))

    @contextmanager
    def flowing(self, streams: int, tokens: int) -> Iterator[Traffic]:
        thread = threading.Thread(target=lambda: asyncio.run(self._run(streams, tokens)))
        thread.start()
        try:
            yield self
        finally:
            self._stop = True
            thread.join()


def wait_until(condition: Callable[[], bool], timeout: float) -> bool:
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True
