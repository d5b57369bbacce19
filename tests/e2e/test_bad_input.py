"""Whatever is wrong is told in one sentence, and nobody else is disturbed."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from typing import Any

import httpx
import openai
import psutil
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from kit.newcomer import GREETING, answer
from kit.processes import LOCAL, complaint
from kit.tiny_gguf import write_tiny_gguf
from kit.unsplit import check_greedy
from kit.waiting import eventually
from potluck.local import HANG_S, LocalSwarm, Process
from potluck.node.config import node_url
from potluck.types import Capacity, Span, Speed
from potluck.wire.codec import decode_from_coordinator, encode
from potluck.wire.messages import (
    PROTOCOL_VERSION,
    Greeting,
    Hello,
    Hidden,
    Loading,
    Ping,
    Pong,
    Ready,
    Refusal,
    Scores,
    Step,
    Threads,
    Welcome,
)

# Models


def test_a_path_that_does_not_exist(tmp_path):
    assert complaint("serve", tmp_path / "ghost.gguf", "--port", 0) == f"{tmp_path}/ghost.gguf does not exist."


def test_a_file_that_is_no_model(tmp_path):
    text = tmp_path / "notes.txt"
    text.write_text("Bring a salad.")
    assert str(text) in complaint("serve", text, "--port", 0)


def test_a_truncated_gguf(tiny, tmp_path):
    part = tmp_path / "part.gguf"
    for size in (100, 5_000, tiny.stat().st_size - 100):
        part.write_bytes(tiny.read_bytes()[:size])
        assert str(part) in complaint("serve", part, "--port", 0)


def test_a_model_without_a_tokenizer(tmp_path):
    assert "tokenizer" in complaint("serve", write_tiny_gguf(tmp_path / "mute.gguf"), "--port", 0)


def test_quantize_is_for_hugging_face_models(tiny):
    assert "leave --quantize out" in complaint("serve", tiny, "--port", 0, "--quantize", "q4_0")


def test_a_port_in_use(tiny):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert f"port {port}: Address already in use" in complaint("serve", tiny, "--port", port, *LOCAL)


# Nodes


@pytest.mark.parametrize("span", ["5-", "x", "3-1", "-1", "1.5"])
def test_a_malformed_span(span):
    assert "is not a span: write it as 12 or 12-15" in complaint("join", "http://127.0.0.1:1", "--", span)


def test_a_span_outside_the_model(tiny_swarm):
    assert "outside the model: its layers are 0-5" in complaint("join", tiny_swarm.url, "4-6")
    tiny_swarm.coordinator.wait_for("4-6 is outside the model")


@pytest.mark.parametrize("url", ["ftp://127.0.0.1", "http://", "http://host:port"])
@pytest.mark.parametrize("command", ["join", "status", "chat"])
def test_a_wrong_url(command, url):
    assert "is not a coordinator's URL" in complaint(command, url)


@pytest.mark.parametrize("command", ["status", "chat"])
def test_a_url_where_nobody_answers(command):
    assert "No coordinator can be reached at http://127.0.0.1:1" in complaint(command, "http://127.0.0.1:1")


def test_an_amount_of_memory_that_is_none():
    assert "is not an amount of memory" in complaint("join", "http://127.0.0.1:1", "--memory", "lots")


def test_a_dry_run_where_nobody_answers():
    assert complaint("join", "http://127.0.0.1:1", "--dry-run").startswith(
        "There is no connection to http://127.0.0.1:1 ("
    )


def test_a_dead_url_is_tried_again_until_ctrl_c():
    with Process(["join", "http://127.0.0.1:1"]) as node:
        eventually(lambda: len(node.lines) >= 3)
        assert all("There is no connection to http://127.0.0.1:1" in line for line in node.lines)
        pauses = [float(line.split("trying again in ")[1].split()[0]) for line in node.lines[:3]]
        assert pauses == sorted(set(pauses))
        assert node.stop() == 0
        assert node.lines[-1] == "Stopped."


def test_another_model_is_refused_on_both_ends(tiny_swarm, tmp_path):
    other = write_tiny_gguf(tmp_path / "other.gguf", tokenizer="bpe", seed=1)
    reason = complaint("join", tiny_swarm.url, "0", "--model", other)
    assert reason.startswith("Your model has the hash ")
    assert tiny_swarm.status()["digest"][:16] in reason
    assert reason in tiny_swarm.coordinator.wait_for("Your model has the hash")


def test_a_model_for_a_node_that_does_not_exist(tiny_swarm, tmp_path):
    assert "does not exist" in complaint("join", tiny_swarm.url, "--model", tmp_path / "ghost.gguf")


def test_a_node_that_another_program_answers_waits_for_the_coordinator():
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        with Process(["join", url]) as node:
            one, _ = listener.accept()
            with one:
                one.recv(1000)
                one.sendall(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n")
                assert "502" in node.wait_for("trying again")


# Frames


HELLO = Hello("fake", "0.0", "", Span(0, 1), 1 << 30, 1)


READY = encode(Ready(Capacity(8, 1000, 600), Speed(1e-9, 1e-9), "fake", "plain"))


@contextmanager
def fake_node(swarm: LocalSwarm) -> Iterator[ClientConnection]:
    with connect(node_url(swarm.url), compression=None) as link:
        yield link


def introduce(link: ClientConnection) -> None:
    link.send(GREETING)
    link.send(answer(link.recv(timeout=HANG_S, decode=False), HELLO))


def next_step(link: ClientConnection) -> Step:
    """The one that it is sent next; it lives, and says so."""
    while True:
        message, _ = decode_from_coordinator(link.recv(timeout=HANG_S, decode=False))
        if isinstance(message, Step):
            return message
        if isinstance(message, Ping):
            link.send(encode(Pong(message.number, 0)))


def told_reason(link: ClientConnection) -> str:
    """The coordinator's last word, after which it closes the line."""
    reason = ""
    with suppress(ConnectionClosed):
        while True:
            message, _ = decode_from_coordinator(link.recv(timeout=HANG_S, decode=False))
            if isinstance(message, Refusal):
                reason = message.reason
    return reason


def test_another_protocol_version_is_refused_on_both_ends(tiny_swarm):
    with fake_node(tiny_swarm) as link:
        link.send(encode(Greeting(99, bytes(32))))
        assert told_reason(link).startswith(
            f"The node speaks protocol 99 and the coordinator speaks protocol {PROTOCOL_VERSION}"
        )
    tiny_swarm.coordinator.wait_for("The node speaks protocol 99")


MALFORMED = {
    "empty": b"",
    "short": b"\1\0",
    "header beyond the frame": b"\xff\xff\xff\xff",
    "no msgpack": b"\4\0\0\0\xc1\xc1\xc1\xc1",
    "unknown kind": b"\x0b\0\0\0\x81\xa4kind\xa4evil",
    "second greeting": GREETING,
    "text": "hello",
    "too long": bytes((16 << 20) + 1),
}


@pytest.mark.parametrize("frame", MALFORMED.values(), ids=MALFORMED)
@pytest.mark.parametrize("admitted", [False, True], ids=["first", "later"])
def test_a_malformed_frame_drops_the_node_and_no_other(tiny_swarm, tiny_unsplit, client_of, frame, admitted):
    if frame == GREETING and not admitted:
        pytest.skip("That is how it should begin.")
    with fake_node(tiny_swarm) as link:
        if admitted:
            introduce(link)
            assert isinstance(decode_from_coordinator(link.recv(timeout=HANG_S, decode=False))[0], Welcome)
        with suppress(ConnectionClosed):  # a frame over the limit is cut off while it is sent
            link.send(frame)
        reason = told_reason(link)
    assert reason or frame == MALFORMED["too long"]
    tiny_swarm.wait_until(lambda status: len(status["nodes"]) == 3)
    check_greedy(client_of(tiny_swarm), "tiny", tiny_unsplit)


def hidden(step: Step, payload: bytes) -> bytes:
    return encode(Hidden(step.session, step.route, step.step, step.rows, 0.0, 0.0), payload)


LIES = {
    "rows of the wrong size": lambda step: hidden(step, b"\0" * 5),
    "scores in the middle": lambda step: encode(
        Scores(step.session, step.route, step.step, (1,), 0.0, 0.0), b"\0" * 12
    ),
    "rows that are no numbers": lambda step: hidden(step, b"\0\0\xc0\x7f" * 64 * step.rows),
    "infinite rows": lambda step: hidden(step, b"\0\0\x80\x7f" * 64 * step.rows),
    "malformed": lambda step: b"\1",
}


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES)
def test_an_answer_survives_a_node_that_sends_nonsense(tiny_swarm, tiny_unsplit, client_of, lie):
    """The fake claims to be the fastest, so that the answer begins with it."""
    with fake_node(tiny_swarm) as link:
        introduce(link)
        link.recv(timeout=HANG_S, decode=False)
        link.send(READY)
        tiny_swarm.wait_until(lambda status: status["served"] == [2, 2, 1, 1, 1, 1])
        with ThreadPoolExecutor(1) as threads:
            asked = threads.submit(check_greedy, client_of(tiny_swarm), "tiny", tiny_unsplit)
            link.send(lie(next_step(link)))
            assert told_reason(link)
            asked.result()
    assert tiny_swarm.wait_until(lambda status: len(status["nodes"]) == 3)["covered"]


FLOODS = {
    "answers to nothing": encode(Hidden(1, 1, 1, 1, 0.0, 0.0), bytes(1 << 20)),
    "pongs": encode(Pong(1, 0)),
    "progress": encode(Loading(0.5)),
    "threads": encode(Threads(1)),
}


@pytest.mark.parametrize("frame", FLOODS.values(), ids=FLOODS)
def test_a_node_that_floods_is_cut_and_nobody_else_notices(tiny_swarm, tiny_unsplit, client_of, frame):
    coordinator = psutil.Process(tiny_swarm.coordinator.popen.pid)
    with fake_node(tiny_swarm) as link:
        introduce(link)
        before = coordinator.memory_info().rss
        with ThreadPoolExecutor(1) as threads:
            asked = threads.submit(check_greedy, client_of(tiny_swarm), "tiny", tiny_unsplit)
            with suppress(ConnectionClosed):
                for _ in range(2000):
                    link.send(frame)
            told_reason(link)
            asked.result()
        assert coordinator.memory_info().rss < before + (64 << 20)
    assert tiny_swarm.wait_until(lambda status: len(status["nodes"]) == 3)["covered"]


# Requests


@pytest.fixture
def client(tiny_swarm, client_of) -> openai.OpenAI:
    return client_of(tiny_swarm)


def rejected(swarm: LocalSwarm, path: str, **body: Any) -> dict[str, object]:
    reply = httpx.post(f"{swarm.url}{path}", timeout=HANG_S, **body)
    assert 400 <= reply.status_code < 500
    error = reply.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    return {"status": reply.status_code, **error}


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'"x"', b"\xff\xfe", b'{"model": 1}', b'{"model": "tiny"}'])
@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
def test_a_body_that_is_no_request(tiny_swarm, path, body):
    assert rejected(tiny_swarm, path, content=body)["status"] == 400


def test_an_unknown_model(client):
    with pytest.raises(openai.NotFoundError, match="'tiny' is") as raised:
        client.completions.create(model="gpt-5", prompt="x")
    assert raised.value.code == "model_not_found"


@pytest.mark.parametrize("count", ["many", 1.5, [1], True])
@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
def test_an_absurd_number_of_tokens(tiny_swarm, field, count):
    messages = [{"role": "user", "content": "x"}]
    error = rejected(tiny_swarm, "/v1/chat/completions", json={"model": "tiny", "messages": messages, field: count})
    assert error["status"] == 400
    assert error["param"] == field


def test_a_prompt_longer_than_the_context(client):
    with pytest.raises(openai.BadRequestError, match="more than the context of 4096") as raised:
        client.completions.create(model="tiny", prompt="x" * 5000)
    assert raised.value.code == "context_length_exceeded"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", -1),
        ("top_p", 2),
        ("logprobs", 100),
        ("n", 0),
        ("n", 1000),
        ("stop", [1]),
        ("logit_bias", {"x": 1}),
        ("prompt", []),
        ("prompt", [1 << 40]),
        ("prompt", [-1]),
    ],
)
def test_a_value_out_of_range(tiny_swarm, field, value):
    error = rejected(tiny_swarm, "/v1/completions", json={"model": "tiny", "prompt": "x", field: value})
    assert (error["status"], error["param"]) == (400, field)


def test_unknown_paths_and_methods(tiny_swarm):
    assert rejected(tiny_swarm, "/v1/images/generations", json={})["status"] == 404
    assert rejected(tiny_swarm, "/v1/embeddings", json={})["status"] == 400
    assert rejected(tiny_swarm, "/v1/models", json={})["status"] == 405
    assert httpx.get(f"{tiny_swarm.url}/files/..%2f..%2fetc%2fpasswd", timeout=HANG_S).status_code == 404


def test_the_swarm_serves_on_after_all_this(tiny_swarm, tiny_unsplit, client):
    check_greedy(client, "tiny", tiny_unsplit)
    assert [node["sessions"] for node in tiny_swarm.status()["nodes"]] == [0, 0, 0]
    assert not any("Traceback" in line for line in tiny_swarm.coordinator.lines)
