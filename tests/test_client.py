import json
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from potluck import client
from potluck.client import Client, split_invite, statuses
from potluck.errors import PotluckError
from potluck.network import checked_url


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("192.168.1.5:8470", "http://192.168.1.5:8470"),
        ("http://192.168.1.5:8470/", "http://192.168.1.5:8470"),
        ("https://example.org/swarm/", "https://example.org/swarm"),
        ("ws://192.168.1.5:8470", "http://192.168.1.5:8470"),
        ("wss://example.org", "https://example.org"),
        ("[::1]:8470", "http://[::1]:8470"),
        ("http://192.168.1.5:8470/v1", "http://192.168.1.5:8470"),
        ("192.168.1.5:8470/v1/", "http://192.168.1.5:8470"),
        ("http://192.168.1.5:8470/v1/chat/completions", "http://192.168.1.5:8470"),
        ("http://192.168.1.5:8470//v1//models/", "http://192.168.1.5:8470"),
        ("https://example.org/swarm/v1", "https://example.org/swarm"),
        ("https://example.org/v1/swarm", "https://example.org/v1/swarm"),
        ("https://example.org/potluck-v1", "https://example.org/potluck-v1"),
        ("https://v1", "https://v1"),
        ("http://example.org/chat", "http://example.org/chat"),
    ],
)
def test_urls_as_people_write_them(text: str, url: str) -> None:
    assert checked_url(text) == url
    assert split_invite(text) == (url, "")
    assert split_invite(f"{text}#secret.0123") == (url, "secret.0123")


@pytest.mark.parametrize(
    "text", ["", "http://", "wss://", "ftp://example.org", "http://host:port", "http://host:0", "#x"]
)
def test_what_is_no_url_is_refused(text: str) -> None:
    for read in (checked_url, split_invite):
        with pytest.raises(PotluckError, match="is not a coordinator's URL"):
            read(text)


@pytest.mark.parametrize("answer", [{"model": "a", "served": []}, {"models": [{"model": "a"}, {"model": "b"}]}])
def test_of_one_model_and_of_several_the_first_is_asked(monkeypatch: pytest.MonkeyPatch, answer: Any) -> None:
    listed = {"object": "list", "data": [{"id": "a"}, {"id": "b"}]}
    answers = {"/status": answer, "/v1/models": listed}
    monkeypatch.setattr(Client, "_ask", lambda _, __, path, **___: answers[path])
    swarm = Client("http://127.0.0.1:8470")
    assert swarm.status() == answer
    assert [one["model"] for one in statuses(answer)] == (["a", "b"] if "models" in answer else ["a"])
    assert swarm.model == "a"


def test_a_key_that_may_ask_no_model_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Client, "_ask", lambda *_, **__: {"object": "list", "data": []})
    with pytest.raises(PotluckError, match="may ask none of the models"):
        _ = Client("http://127.0.0.1:8470").model


@pytest.mark.parametrize("answer", [{}, [], 7, {"model": "a"}])
def test_what_is_no_status_is_no_coordinators(monkeypatch: pytest.MonkeyPatch, answer: Any) -> None:
    monkeypatch.setattr(Client, "_ask", lambda *_, **__: answer)
    with pytest.raises(PotluckError, match="it is not a Potluck coordinator"):
        Client("http://127.0.0.1:8470").status()


def test_the_trace_of_an_answer_is_that_of_its_model(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def answer(_: Client, method: str, path: str, **request: Any) -> Any:
        asked.append((method, path, request["params"]))
        return {"traceEvents": [{"name": "process_name", "args": {"name": name}} for name in ("sessions", "anna")]}

    monkeypatch.setattr(Client, "_ask", answer)
    assert Client("http://127.0.0.1:8470").served_by({"model": "b", "sessions": [3]}) == ["anna"]
    assert asked == [("GET", "/trace", {"session": 3, "model": "b"})]


STREAM = {"Potluck-Fleet": "http://one:1, http://two:2"}


def piece(number: int, text: str) -> str:
    data = json.dumps({"choices": [{"index": 0, "delta": {"content": text}}]})
    return (f"id: s.{number}\n" if number else "") + f"data: {data}\n\n"


END = "id: s.3.1\ndata: [DONE]\n\n"
AWAY = 'data: {"error": {"message": "It stops.", "code": "unavailable"}}\n\ndata: [DONE]\n\n'


class Cut(httpx.SyncByteStream):
    """What comes before a line is cut."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __iter__(self) -> Iterator[bytes]:
        yield self.text.encode()
        raise httpx.RemoteProtocolError("The line was cut.")


def says(text: str) -> httpx.Response:
    return httpx.Response(200, text=text, headers=STREAM)


def is_cut_after(text: str) -> httpx.Response:
    return httpx.Response(200, stream=Cut(text), headers=STREAM)


def refuses(status: int, message: str = "No.") -> httpx.Response:
    return httpx.Response(status, json={"error": {"message": message}})


@pytest.fixture
def play(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Client, list[tuple[str, str]]]]:
    """A client to which these replies come, one after the other, and the host and the last id of each request."""

    def played(*replies: httpx.Response | Exception) -> tuple[Client, list[tuple[str, str]]]:
        left, asked = [*replies], list[tuple[str, str]]()

        def answer(request: httpx.Request) -> httpx.Response:
            asked.append((request.url.host, request.headers.get("Last-Event-ID", "")))
            reply = left.pop(0) if len(left) > 1 else left[0]
            if isinstance(reply, Exception):
                raise reply
            return reply

        transport = httpx.MockTransport(answer)
        monkeypatch.setattr(
            Client, "_http", lambda self, _, url="": httpx.Client(base_url=url or self.url, transport=transport)
        )
        now = 0.0

        def sleep(seconds: float) -> None:
            nonlocal now
            now += seconds

        monkeypatch.setattr(client.time, "sleep", sleep)
        monkeypatch.setattr(client.time, "monotonic", lambda: now)
        return Client("http://one:1"), asked

    return played


@pytest.mark.parametrize(
    "broken",
    [
        is_cut_after(piece(1, "a") + piece(2, "b")),
        is_cut_after(piece(1, "a") + piece(2, "b") + ": waiting\n\n" + piece(3, "c")[:-1]),
        says(piece(1, "a") + piece(2, "b")),
        says(piece(1, "a") + piece(2, "b") + AWAY),
    ],
)
def test_a_stream_goes_on_where_it_broke_off(play: Any, broken: httpx.Response) -> None:
    swarm, asked = play(broken, httpx.ConnectError("Nobody is there."), refuses(503), says(piece(3, "c") + END))
    assert "".join(swarm.stream_chat("tiny", [])) == "abc"
    assert asked == [("one", ""), ("one", "s.2"), ("two", "s.2"), ("one", "s.2")]


def test_a_stream_may_break_off_again(play: Any) -> None:
    swarm, asked = play(is_cut_after(piece(1, "a")), is_cut_after(piece(2, "b")), says(piece(3, "c") + END))
    assert "".join(swarm.stream_chat("tiny", [])) == "abc"
    assert asked == [("one", ""), ("one", "s.1"), ("one", "s.2")]


@pytest.mark.parametrize(
    ("later", "sentence"),
    [
        ([refuses(404, "No answer of yours is kept.")], "No answer of yours is kept"),
        ([httpx.ConnectError("Nobody is there.")], "Nobody is there"),
        ([says(AWAY)], "It stops"),
    ],
)
def test_a_stream_that_cannot_go_on_says_why(play: Any, later: list[Any], sentence: str) -> None:
    swarm, _ = play(is_cut_after(piece(1, "a")), *later)
    answer = swarm.stream_chat("tiny", [])
    assert next(answer) == "a"
    with pytest.raises(PotluckError, match=sentence):
        next(answer)


@pytest.mark.parametrize(
    "broken", [is_cut_after(piece(0, "a")), says(piece(0, "a") + AWAY), is_cut_after(": waiting\n\n")]
)
def test_a_stream_without_ids_fails_at_once(play: Any, broken: httpx.Response) -> None:
    swarm, asked = play(broken)
    with pytest.raises(PotluckError):
        list(swarm.stream_chat("tiny", []))
    assert len(asked) == 1
