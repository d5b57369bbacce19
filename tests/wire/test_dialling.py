"""What answers a node's web-socket, and whether that may pass by itself."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from kit.certificates import self_signed
from kit.runner import run
from potluck.errors import LinkClosed, NoCoordinator
from potluck.wire.dialling import open_socket


def reply(status: str, body: str = "", *headers: str) -> bytes:
    head = "\r\n".join([f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers])
    return f"{head}\r\n\r\n{body}".encode()


@asynccontextmanager
async def answering(answer: bytes, tls: ssl.SSLContext | None = None) -> AsyncIterator[str]:
    """The host and port of a server that answers everybody with this, and hangs up."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            await reader.read(1 << 16)  # a whole request, or the beginning of TLS
            writer.write(answer)
            await writer.drain()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls) as server:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"


def told(answer: bytes, scheme: str = "ws", tls: ssl.SSLContext | None = None) -> tuple[type[Exception], str]:
    """The kind and the text of what comes of dialling."""

    async def dial() -> tuple[type[Exception], str]:
        async with answering(answer, tls) as place:
            with pytest.raises((LinkClosed, NoCoordinator)) as raised:
                await open_socket(f"{scheme}://{place}/node")
        return raised.type, str(raised.value)

    return run(dial())


ERROR = json.dumps({"error": {"message": "There is nothing at /chat/node.\x1b"}})


@pytest.mark.parametrize("status", ["500 X", "502 Bad Gateway", "503 X", "504 X", "408 X", "425 X", "429 Slow down"])
def test_what_may_pass_is_no_final_answer(status: str) -> None:
    assert told(reply(status)) == (LinkClosed, f"the server there answers {status[:3]}")


@pytest.mark.parametrize("status", ["400 X", "401 X", "403 Forbidden", "404 Not Found", "405 X", "410 X", "426 X"])
def test_what_cannot_pass_is_final(status: str) -> None:
    assert told(reply(status)) == (NoCoordinator, f"the server there answers {status[:3]}: check the address")


def test_a_server_of_http_1_0_is_understood() -> None:
    kind, text = told(reply("404 Not Found").replace(b"1.1", b"1.0"))
    assert (kind, text) == (NoCoordinator, "the server there answers 404: check the address")
    assert told(reply("502 Bad Gateway").replace(b"1.1", b"1.0")) == (LinkClosed, "the server there answers 502")


def test_the_servers_own_words_are_shown() -> None:
    kind, text = told(reply("404 Not Found", ERROR))
    assert (kind, text) == (
        NoCoordinator,
        "the server there answers 404 (There is nothing at /chat/node): check the address",
    )
    assert len(told(reply("404 Not Found", ERROR.replace("nothing", "x" * 9000)))[1]) < 300
    for body in ("<html>", "[]", '{"error": 1}', '{"error": {"message": 1}}', "[" * 9000):
        assert told(reply("404 Not Found", body))[1] == "the server there answers 404: check the address"


def test_a_web_page_is_told() -> None:
    kind, text = told(reply("200 OK", "<html>Please sign in.</html>"))
    assert (kind, text[:40]) == (NoCoordinator, "a web page answers there, with 200: chec")


@pytest.mark.parametrize("target", ["https://portal.example/login", "http://portal.example"])
def test_a_redirect_is_told(target: str) -> None:
    kind, text = told(reply("302 Found", "", f"Location: {target}"))
    assert (kind, text) == (NoCoordinator, f"it redirects to {target}, so give that address if it is right")


def test_tls_on_one_side_only_is_told(tmp_path: Path) -> None:
    tls = self_signed(tmp_path).context
    assert told(b"", tls=tls) == (NoCoordinator, "TLS is spoken there, so write https:// instead of http://")
    for answer in (reply("400 Bad Request"), b"SSH-2.0-OpenSSH\r\n"):
        assert told(answer, "wss") == (NoCoordinator, "TLS is not spoken there, so write http:// instead of https://")
    assert told(b"", "wss")[0] is LinkClosed


def test_a_certificate_that_nobody_vouches_for_is_told(tmp_path: Path) -> None:
    kind, text = told(b"", "wss", self_signed(tmp_path).context)
    assert kind is NoCoordinator
    assert text.startswith("its certificate is not trusted here (self-signed certificate): SSL_CERT_FILE may name")
