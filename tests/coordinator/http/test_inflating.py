"""Bodies that clients compress, from single bytes to bombs, as the service reads them behind `Crowd`."""

import asyncio
import gzip
import json
import zlib
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from kit.runner import run
from kit.webserver import Served, serving
from potluck.coordinator.http import inflating
from potluck.coordinator.http.auth import Caller
from potluck.coordinator.http.crowd import Crowd
from potluck.coordinator.http.errors import error_response
from potluck.coordinator.http.inbound import body_of, most_bytes
from potluck.coordinator.http.inflating import PIECE, Inflater
from potluck.errors import PotluckError, RequestError

TEXT = json.dumps({"prompt": "Once upon a time … " * 9000}).encode()
BOMB = 64 << 20


def raw(data: bytes) -> bytes:
    stream = zlib.compressobj(wbits=-15)
    return stream.compress(data) + stream.flush()


FORMS = {
    "gzip": ("gzip", gzip.compress(TEXT)),
    "gzip by its old name": ("X-GZip", gzip.compress(TEXT)),
    "gzip after nothing": ("identity, gzip", gzip.compress(TEXT)),
    "gzip of several members": ("gzip", gzip.compress(TEXT[:9]) + gzip.compress(b"") + gzip.compress(TEXT[9:])),
    "stored": ("gzip", gzip.compress(TEXT, 0)),
    "deflate": ("deflate", zlib.compress(TEXT)),
    "deflate without zlib's header": ("deflate", raw(TEXT)),
}
BROKEN = {
    "gzip that ends early": ("gzip", gzip.compress(TEXT)[:-9], "The body ends before its gzip does"),
    "gzip without its sum": ("gzip", gzip.compress(TEXT)[:-1], "The body ends before its gzip does"),
    "a head alone": ("gzip", gzip.compress(TEXT)[:5], "The body ends before its gzip does"),
    "a second member that ends early": ("gzip", gzip.compress(TEXT) + b"\x1f", "The body ends before its gzip does"),
    "deflate that ends early": ("deflate", zlib.compress(TEXT)[:-1], "The body ends before its deflate does"),
    "text": ("gzip", TEXT, "The body is not in gzip"),
    "the wrong sum": ("gzip", gzip.compress(TEXT)[:-8] + bytes(8), "The body is not in gzip"),
    "something after it": ("gzip", gzip.compress(TEXT) + b"PK", "The body is not in gzip"),
    "something after deflate": ("deflate", zlib.compress(TEXT) * 2, "The body is not in deflate"),
    "zlib as gzip": ("gzip", zlib.compress(TEXT), "The body is not in gzip"),
    "empty members": ("gzip", gzip.compress(b"") * 9999, "The body is much longer in gzip than without it"),
}


class _Everybody:
    """Stands in for `Auth`: everybody has an account."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope.setdefault("state", {})["caller"] = Caller("ann")
        await self._app(scope, receive, send)


async def tell(request: Request) -> Response:
    body = await body_of(request)
    return PlainTextResponse(f"read {len(body)} {zlib.crc32(body)}")


APP = Starlette(
    routes=[Route("/", tell, methods=["POST"])],
    middleware=[Middleware(_Everybody), Middleware(Crowd)],
    exception_handlers={PotluckError: error_response},
)


async def answer(served: Served, coding: str, body: bytes, *, chunked: bool = False) -> str:
    """The answer to a body that is compressed like this."""
    length = "transfer-encoding: chunked" if chunked else f"content-length: {len(body)}"
    head = f"POST / HTTP/1.1\r\nconnection: close\r\ncontent-encoding: {coding}\r\n{length}\r\n\r\n"
    sent = b"".join(b"%x\r\n%s\r\n" % (len(each), each) for each in (body, b"")) if chunked else body
    return (await served.say(head.encode() + sent)).decode()


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize(("coding", "body"), FORMS.values(), ids=FORMS)
def test_a_compressed_body_is_read(coding: str, body: bytes, chunked: bool) -> None:
    async def test() -> None:
        async with serving(APP) as served:
            said = await answer(served, coding, body, chunked=chunked)
        assert " 200 OK\r\n" in said
        assert said.endswith(f"read {len(TEXT)} {zlib.crc32(TEXT)}")

    run(test())


def test_a_mark_may_stand_in_it_and_nothing_too() -> None:
    async def test() -> None:
        async with serving(APP) as served:
            said = await answer(served, "gzip", gzip.compress(b"\xef\xbb\xbfx"))
            assert said.endswith(f"read 1 {zlib.crc32(b'x')}")
            for nothing in (b"", gzip.compress(b"")):
                assert (await answer(served, "gzip", nothing, chunked=True)).endswith("read 0 0")

    run(test())


@pytest.mark.parametrize(("coding", "body", "sentence"), BROKEN.values(), ids=BROKEN)
def test_a_broken_one_gets_a_sentence(coding: str, body: bytes, sentence: str) -> None:
    async def test() -> None:
        async with serving(APP) as served:
            said = await answer(served, coding, body)
        assert " 400 Bad Request\r\n" in said
        assert json.loads(said.rpartition("\r\n")[2])["error"]["message"].startswith(sentence)

    run(test())


@pytest.mark.parametrize("coding", ["br", "zstd", "gzip, gzip", "deflate, gzip", "x" * 5000])
def test_another_coding_is_named(coding: str) -> None:
    async def test() -> None:
        async with serving(APP) as served:
            said = await answer(served, coding, b"x")
        assert " 415 Unsupported Media Type\r\n" in said
        told = json.loads(said.rpartition("\r\n")[2])["error"]["message"]
        advice = "compress it once, with gzip or deflate, or send it as it is"
        assert told == f"A body in {coding[:20]} cannot be read: {advice}."

    run(test())


@pytest.fixture
def inflated(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The length of each piece that was inflated."""
    lengths: list[int] = []
    pop = Inflater.pop

    def noting(self: Inflater) -> bytes:
        piece = pop(self)
        lengths.append(len(piece))
        return piece

    monkeypatch.setattr(Inflater, "pop", noting)
    return lengths


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_a_bomb_is_inflated_up_to_the_limit_and_no_further(coding: str, inflated: list[int]) -> None:
    bomb = gzip.compress(bytes(BOMB)) if coding == "gzip" else zlib.compress(bytes(BOMB))

    async def test() -> None:
        async with serving(APP) as served:
            said = await answer(served, coding, bomb)
        assert " 413 " in said
        assert f"longer than {most_bytes()} bytes" in said
        assert max(inflated) <= PIECE
        assert sum(inflated) <= most_bytes() + PIECE

    run(test())


def test_others_have_their_turns_while_it_is_inflated(inflated: list[int]) -> None:
    async def test() -> None:
        turns = 0

        async def count() -> None:
            nonlocal turns
            while True:
                await asyncio.sleep(0)
                turns += 1

        async def receive() -> dict[str, object]:
            return {"type": "http.request", "body": gzip.compress(bytes(99 * PIECE)), "more_body": False}

        counting = asyncio.create_task(count())
        inflate, more = inflating.Inflating("gzip", receive), True
        while more:
            more = (await inflate())["more_body"]
        counting.cancel()
        assert len(inflated) >= 99
        assert turns >= 99

    run(test())


@given(st.binary(max_size=300), st.sampled_from([*inflating.CODINGS]), st.lists(st.integers(0, 300)))
def test_any_bytes_are_inflated_or_refused(data: bytes, coding: str, cuts: list[int]) -> None:
    """Wherever the network cuts what is sent, the same comes of it."""
    packed = {"deflate": zlib.compress}.get(coding, gzip.compress)(data)
    assert _inflated(coding, packed, cuts) == data
    assert _inflated(coding, packed[:-1], cuts) is None
    once = _inflated(coding, data, [])
    assert _inflated(coding, data, cuts) == once


def _inflated(coding: str, data: bytes, cuts: list[int]) -> bytes | None:
    """What comes of the data; None if it is refused, or must go on."""
    inflater, told, places = Inflater(coding), b"", sorted({0, *cuts, len(data)})
    try:
        for begin, end in pairwise(places):
            inflater.feed(data[begin:end])
            while piece := inflater.pop():
                told += piece
    except RequestError:
        return None
    return told if inflater.is_complete else None
