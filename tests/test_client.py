from typing import Any

import pytest

from potluck.client import Client, checked_url, split_invite, statuses
from potluck.errors import PotluckError


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
