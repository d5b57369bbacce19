"""One attacker, the child of `benchmarks/siege.py`: it does for some seconds what a hostile client would do.

It runs at a low priority, because a real attacker has a computer of its own. It opens at most MOST_DIALS
connections a second, ends by itself, and says what that has cost.
"""

from __future__ import annotations

import asyncio
import json
import os
import struct
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

import psutil

MOST_DIALS = 500
SOURCES = 8
"""The addresses that an attacker has, where the system gives loopback more than one."""
PING = b"\x89\xfd" + bytes(4) + bytes(125)
EMPTY = b"\x82\x80" + bytes(4)
UNFINISHED = struct.pack("!BBQ", 0x82, 0xFF, 16 << 20) + bytes(4)
"""The beginning of a web-socket's frame of 16 MiB."""
TOKEN = "<|im_start|>"
SLOW_SCHEMA = {"type": "integer", "multipleOf": 99999989}


@dataclass
class Cost:
    dials: int = 0
    nbytes: int = 0


class Attacker:
    """Opens connections to the target. key: an API key, or empty. model: the name of the model."""

    def __init__(self, host: str, port: int, key: str, model: str, seconds: float) -> None:
        self.host, self.port, self.model = host, port, model
        self._key = key
        self._end = time.monotonic() + seconds
        self.cost = Cost()
        self._slot = 0.0
        """The moment of the latest connection."""

    @property
    def goes_on(self) -> bool:
        return time.monotonic() < self._end

    async def dial(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        self._slot = max(self._slot, time.monotonic()) + 1 / MOST_DIALS
        await asyncio.sleep(self._slot - time.monotonic())
        self.cost.dials += 1
        source = f"127.0.0.{2 + self.cost.dials % SOURCES}" if sys.platform == "linux" else "127.0.0.1"
        return await asyncio.open_connection(self.host, self.port, local_addr=(source, 0))

    async def send(self, writer: asyncio.StreamWriter, data: bytes) -> None:
        self.cost.nbytes += len(data)
        writer.write(data)
        await writer.drain()

    async def again(self, once: Callable[[], Awaitable[None]]) -> None:
        """Do something until the time is over. What the coordinator does against it is no reason to stop."""
        while self.goes_on:
            with suppress(OSError, EOFError, asyncio.TimeoutError):
                async with asyncio.timeout(max(0.0, self._end - time.monotonic())):
                    await once()
            await asyncio.sleep(0.001)

    async def together(self, count: int, once: Callable[[], Awaitable[None]]) -> None:
        await asyncio.gather(*(self.again(once) for _ in range(count)))

    async def ask(self, method: str, path: str, body: bytes, hold_s: float) -> None:
        """Send a request, and hang up after some seconds."""
        _, writer = await self.dial()
        try:
            await self.send(writer, self.head(method, path, len(body)) + body)
            await asyncio.sleep(hold_s)
        finally:
            writer.transport.abort()

    def head(self, method: str, path: str, length: int) -> bytes:
        lines = [f"{method} {path} HTTP/1.1", f"host: {self.host}:{self.port}", f"content-length: {length}"]
        if self._key:
            lines.append(f"authorization: Bearer {self._key}")
        return "\r\n".join([*lines, "", ""]).encode()

    async def upgrade(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await self.dial()
        head = f"GET /node HTTP/1.1\r\nhost: {self.host}:{self.port}\r\nconnection: upgrade\r\nupgrade: websocket\r\n"
        rest = "sec-websocket-version: 13\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
        await self.send(writer, (head + rest).encode())
        await reader.readuntil(b"\r\n\r\n")
        return reader, writer


async def tokens(attacker: Attacker) -> None:
    """Texts of 80,000 special tokens, by six clients that hang up after a second."""
    body = json.dumps({"content": TOKEN * 80_000}).encode()
    await attacker.together(6, lambda: attacker.ask("POST", "/tokenize", body, 1.0))


async def heads(attacker: Attacker) -> None:
    """URLs and headers without an end."""

    async def once(beginning: bytes) -> None:
        _, writer = await attacker.dial()
        try:
            await attacker.send(writer, beginning)
            while attacker.goes_on:
                await attacker.send(writer, b"a" * (64 << 10))
        finally:
            writer.transport.abort()

    await asyncio.gather(
        attacker.together(4, lambda: once(b"GET /")), attacker.together(4, lambda: once(b"GET / HTTP/1.1\r\na: "))
    )


async def pings(attacker: Attacker) -> None:
    """Pings, and messages without content, without a pause. What comes back is not read."""

    async def once(frame: bytes) -> None:
        _, writer = await attacker.upgrade()
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        try:
            while attacker.goes_on:
                await attacker.send(writer, frame * 500)
        finally:
            writer.transport.abort()

    await asyncio.gather(attacker.together(8, lambda: once(PING)), attacker.together(8, lambda: once(EMPTY)))


async def requests(attacker: Attacker) -> None:
    """Requests without a key, many at once on each connection."""

    async def once() -> None:
        reader, writer = await attacker.dial()
        try:
            while attacker.goes_on:
                await attacker.send(writer, f"GET /health HTTP/1.1\r\nhost: {attacker.host}\r\n\r\n".encode() * 4)
                await reader.readuntil(b"}")
        finally:
            writer.transport.abort()

    await attacker.together(64, once)


async def halves(attacker: Attacker) -> None:
    """1,500 heads that never end, and 100 bodies."""

    async def once(beginning: bytes) -> None:
        reader, writer = await attacker.dial()
        try:
            await attacker.send(writer, beginning)
            await reader.read()
        finally:
            writer.transport.abort()

    body = attacker.head("POST", "/v1/completions", 1_900_000) + b" " * 1_800_000
    await asyncio.gather(
        attacker.together(1500, lambda: once(b"GET / HTTP/1.1\r\n")), attacker.together(100, lambda: once(body))
    )


async def sockets(attacker: Attacker) -> None:
    """Sockets for nodes, silent ones and ones that send a frame which never ends."""

    async def once(beginning: bytes) -> None:
        reader, writer = await attacker.upgrade()
        try:
            await attacker.send(writer, beginning)
            await reader.read()
        finally:
            writer.transport.abort()

    endless = UNFINISHED + bytes(15 << 20)  # made once, because that takes its time
    await asyncio.gather(
        attacker.together(96, lambda: once(b"\x89\x80" + bytes(4))),
        attacker.together(32, lambda: once(endless)),
    )


async def schemas(attacker: Attacker) -> None:
    """Schemas that take long to compile, many choices with many biases, and many listeners."""
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": SLOW_SCHEMA}}
    common = {"model": attacker.model, "messages": [{"role": "user", "content": "x"}], "max_tokens": 1}
    slow = json.dumps({**common, "response_format": form}).encode()
    biases = {str(token): 1 for token in range(49_152)}
    many = json.dumps({**common, "n": 64, "logit_bias": biases}).encode()
    await asyncio.gather(
        attacker.together(4, lambda: attacker.ask("POST", "/v1/chat/completions", slow, 0.5)),
        attacker.together(2, lambda: attacker.ask("POST", "/v1/chat/completions", many, 1.0)),
        attacker.together(260, lambda: attacker.ask("GET", "/status/events", b"", 60.0)),
    )


async def objects(attacker: Attacker) -> None:
    """Bodies of 2 MB that become many objects when they are parsed."""
    parts = '{"":[]},' * 249_000
    body = f'{{"model": "{attacker.model}", "messages": [{parts}{{}}]}}'.encode()
    await attacker.together(16, lambda: attacker.ask("POST", "/v1/chat/completions", body, 1.0))


ATTACKS = {attack.__name__: attack for attack in (tokens, heads, pings, requests, halves, sockets, schemas, objects)}


async def main(arguments: Sequence[str]) -> None:
    """Print the cost as one JSON object."""
    names, host, port, key, model, seconds = arguments
    attacker = Attacker(host, int(port), key, model, float(seconds))
    await asyncio.gather(*(ATTACKS[name](attacker) for name in names.split(",")))
    used = psutil.Process().cpu_times()
    cpu_s = used.user + used.system
    print(json.dumps({"dials": attacker.cost.dials, "nbytes": attacker.cost.nbytes, "cpu_s": cpu_s}))


if __name__ == "__main__":
    if hasattr(os, "nice"):
        os.nice(10)
    asyncio.run(main(sys.argv[1:]))
