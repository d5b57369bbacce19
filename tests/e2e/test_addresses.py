"""Requests for wrong addresses, by wrong methods and in old versions of HTTP: each gets an answer that helps."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from urllib.parse import urlsplit

import httpx
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from kit.processes import PRIVATE
from potluck.local import HANG_S, LocalSwarm
from potluck.node.config import node_url

CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "x"}], "max_tokens": 2}
BASE = "the base URL for OpenAI's clients is the coordinator's with /v1."


@pytest.fixture
def http(tiny_swarm: LocalSwarm) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=tiny_swarm.url, timeout=HANG_S) as client:
        yield client


def told(reply: httpx.Response) -> str:
    """The message of an error in OpenAI's form."""
    assert reply.headers["content-type"] == "application/json"
    error = reply.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return str(error["message"])


@pytest.mark.parametrize("path", ["/v1/chat/completions/", "//v1/chat/completions", "/v1//chat/completions//"])
def test_slashes_by_habit_are_no_fault(tiny_swarm: LocalSwarm, path: str) -> None:
    reply = httpx.post(tiny_swarm.url + path, json=CHAT, timeout=HANG_S)
    assert reply.status_code == 200
    assert reply.json()["object"] == "chat.completion"


def test_a_slash_opens_no_door(start) -> None:
    swarm = start(*PRIVATE)
    for path in ("/v1/admin/keys/", "//v1//admin/keys", "/v1/account/", "/manifest/"):
        assert httpx.get(swarm.url + path, timeout=HANG_S).status_code == 401
    key = swarm.new_key("--account", "anna")
    header = {"Authorization": f"Bearer {key}"}
    for path in ("/v1/admin/keys/", "//v1//admin/keys", "/v1//admin/ghost/"):
        assert httpx.get(swarm.url + path, headers=header, timeout=HANG_S).status_code == 403


@pytest.mark.parametrize("path", ["/chat/completions", "/v1/v1/chat/completions", "/openai/v1/chat/completions/"])
def test_a_wrong_base_url_is_told(http: httpx.Client, path: str) -> None:
    reply = http.post(path, json=CHAT)
    assert reply.status_code == 404
    assert told(reply) == f"There is nothing at {path.rstrip('/')}, but at /v1/chat/completions: {BASE}"


@pytest.mark.parametrize("meant", ["/v1/messages", "/v1/messages/count_tokens"])
@pytest.mark.parametrize("base", ["/v1", "/anthropic", "/v1/v1"])
def test_a_wrong_base_url_is_told_to_anthropics_clients_in_their_form(
    http: httpx.Client, base: str, meant: str
) -> None:
    for path in (base + meant, meant.removeprefix("/v1")):
        reply = http.post(path, json=CHAT)
        assert (reply.status_code, reply.json()["type"]) == (404, "error")
        assert reply.json()["error"] == {
            "type": "not_found_error",
            "message": f"There is nothing at {path}, but at {meant}: the base URL for Anthropic's clients is the "
            "coordinator's, without /v1.",
            "param": None,
        }


def test_other_addresses_are_told_as_well(http: httpx.Client) -> None:
    assert told(http.get("/v1/status")) == "There is nothing at /v1/status, but at /status."
    assert told(http.get("/ghost")) == "There is nothing at /ghost."
    assert len(told(http.get(f"/{'x' * 5000}"))) < 300
    assert http.head("/ghost").status_code == 404
    assert http.head("/ghost").content == b""


def test_a_wrong_method_is_told_the_right_one(http: httpx.Client) -> None:
    reply = http.get("/v1/chat/completions")
    assert (reply.status_code, reply.headers["allow"]) == (405, "POST")
    assert told(reply) == "/v1/chat/completions takes POST only."


def test_a_web_socket_elsewhere_is_told(tiny_swarm: LocalSwarm) -> None:
    with pytest.raises(InvalidStatus) as raised, connect(f"{node_url(tiny_swarm.url)}s"):
        pass
    assert raised.value.response.status_code == 404
    assert json.loads(raised.value.response.body or b"")["error"]["message"] == "There is nothing at /nodes."


@pytest.mark.parametrize("scheme", ["https", "http"])
def test_nobody_behind_a_proxy_is_sent_to_another_scheme(start, scheme: str) -> None:
    swarm = start(*PRIVATE, "--forwarded-for", "127.0.0.1")
    headers = {"Authorization": f"Bearer {swarm.new_key('--account', 'anna')}", "X-Forwarded-Proto": scheme}
    for path in ("/v1/models/", "/v1/models"):
        reply = httpx.get(swarm.url + path, headers=headers, timeout=HANG_S)
        assert reply.status_code == 200


def spoken(swarm: LocalSwarm, request: bytes) -> bytes:
    """All that the server says until it closes the connection."""
    place, parts = urlsplit(swarm.url), []
    with socket.create_connection((place.hostname or "", place.port or 0), HANG_S) as line:
        line.sendall(request)
        while part := line.recv(1 << 16):
            parts.append(part)
    return b"".join(parts)


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_of_http_1_0_gets_no_chunks(tiny_swarm: LocalSwarm, stream: bool) -> None:
    body = json.dumps({**CHAT, "stream": stream}).encode()
    head = f"POST /v1/chat/completions HTTP/1.0\r\nHost: 127.0.0.1\r\nContent-Length: {len(body)}\r\n\r\n"
    head, _, answer = spoken(tiny_swarm, head.encode() + body).decode().partition("\r\n\r\n")
    assert head.startswith("HTTP/1.1 200 ")
    assert "chunked" not in head
    if stream:
        lines = [line for line in answer.split("\n\n") if line and not line.startswith(":")]
        assert lines[-1] == "data: [DONE]"
        assert all(json.loads(line.removeprefix("data: "))["choices"] for line in lines[:-1])
    else:
        assert json.loads(answer)["choices"]


def test_what_is_no_http_gets_json_from_the_coordinator_too(tiny_swarm: LocalSwarm) -> None:
    head, _, body = spoken(tiny_swarm, b"\x16\x03\x01\x02\x00\r\n\r\n").decode().partition("\r\n\r\n")
    assert head.startswith("HTTP/1.1 400 ")
    assert json.loads(body)["error"]["type"] == "invalid_request_error"
