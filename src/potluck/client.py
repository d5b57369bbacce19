"""A small client of a coordinator's HTTP API for the command line, and for requests that OpenAI's client lacks."""

from __future__ import annotations

import json
import ssl
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from math import inf
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import httpx

from potluck.errors import PotluckError
from potluck.network import checked_url, http_client, is_here, tls_fault, way_to

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

Json = dict[str, Any]
Messages = Sequence[Mapping[str, Any]]
"""The messages of a chat in OpenAI's form: `{"role": "user", "content": "…"}`."""

_ANSWER_S = httpx.Timeout(10.0, read=None)
"""A slow swarm may take minutes for a token; connecting takes seconds."""

_STREAM_S = httpx.Timeout(10.0, read=120.0)
"""A stream is never silent for so long: a coordinator says every few seconds that it is still there."""
_RESUMING_S = 60.0
"""Seconds in which a stream that broke off must go on."""
_LONGEST_PAUSE_S = 2.0
_PASSING = (429, 502, 503, 504)
"""The statuses of coordinators that cannot go on with a stream now, and of proxies before those that are gone."""
_LONGEST = 200
"""The most characters of a redirect that are repeated."""


def split_invite(text: str) -> tuple[str, str]:
    """The coordinator's URL, and the invite after its `#`, or "". Raises PotluckError as `checked_url` does."""
    url, _, invite = text.partition("#")
    return checked_url(url), invite


@dataclass(frozen=True)
class Client:
    """A client of one coordinator.

    url: the coordinator's, as `checked_url` returns it. key: the API key to send, or "".
    waiting: what to show while waiting for an answer that is not streamed.
    Every call raises PotluckError with the server's reason, or because no server answers.
    """

    url: str
    key: str = ""
    waiting: Callable[[], AbstractContextManager[None]] = nullcontext

    def status(self) -> Json:
        """`GET /status`: of the only model, or of several ones, which `statuses` takes apart."""
        return self._known(self._ask("GET", "/status", timeout=10.0), "served", "models")

    def fleet(self) -> Json:
        """`GET /fleet`: the coordinators that serve together."""
        return self._known(self._ask("GET", "/fleet", timeout=10.0), "coordinators")

    def trace(self, **which: int | str) -> Json:
        """`GET /trace`: the latest hops of all sessions or of one, without the first `after` hops.

        model: the name of one, where several are served.
        """
        return self._known(self._ask("GET", "/trace", params=which, timeout=60.0), "traceEvents")

    def chat(self, messages: Messages, priority: str = "interactive", **options: Any) -> Json:
        """`POST /v1/chat/completions`: the whole answer. priority: "batch" if nobody waits for the answer.

        options: further fields of the request, such as `temperature`.
        """
        request = {"model": self.model, "messages": messages, "priority": priority, **options}
        answer: Json = self._ask("POST", "/v1/chat/completions", json=request, timeout=_ANSWER_S)
        return answer

    def served_by(self, answer: Json) -> list[str]:
        """The nodes that computed a whole answer, each with its name and layers in order, for each session."""
        traces = [self.trace(session=session, model=answer["model"]) for session in answer["sessions"]]
        found = [trace["traceEvents"] for trace in traces]
        names = [[event["args"]["name"] for event in events if event["name"] == "process_name"] for events in found]
        return [name for _, *nodes in names for name in nodes]

    def tokenize(self, text: str) -> list[int]:
        """The tokens of a text as a prompt."""
        request = {"model": self.model, "content": text, "add_special": True}
        tokens: list[int] = self._ask("POST", "/tokenize", json=request)["tokens"]
        return tokens

    def hidden_states(self, tokens: list[int], layer: int) -> npt.NDArray[np.float32]:
        """The rows `[n, d]` after this layer, one for each token. The model's last layer gives none."""
        from safetensors.numpy import load  # the command line need not wait for it

        request = {"model": self.model, "tokens": tokens, "layer": layer}
        rows: npt.NDArray[np.float32] = load(
            self._send("POST", "/v1/hidden_states", json=request, timeout=_ANSWER_S).content
        )["hidden_states"]
        return rows

    def loglikelihood(self, tokens: list[int]) -> list[float]:
        """The log-probability of each token but the first, given the tokens before it."""
        request = {"model": self.model, "prompt": tokens, "max_tokens": 0, "echo": True, "logprobs": 0}
        answer = self._ask("POST", "/v1/completions", json=request, timeout=_ANSWER_S)
        scores: list[float] = answer["choices"][0]["logprobs"]["token_logprobs"][1:]
        return scores

    @cached_property
    def model(self) -> str:
        """The name of the model that is served, or of the first one that the key may ask."""
        listed = self._known(self._ask("GET", "/v1/models", timeout=10.0), "data")["data"]
        if not listed:
            raise PotluckError("This key may ask none of the models that are served.")
        name: str = listed[0]["id"]
        return name

    def complete(self, model: str, prompt: str, tokens: int) -> None:
        """Generate this number of tokens, and wait for their end."""
        request = {"model": model, "prompt": prompt, "max_tokens": tokens, "temperature": 0, "ignore_eos": True}
        self._ask("POST", "/v1/completions", json=request, timeout=_ANSWER_S)

    def stream_chat(
        self,
        model: str,
        messages: Messages,
        on_progress: Callable[[int, int], None] | None = None,
        on_usage: Callable[[Json], None] | None = None,
        **options: Any,
    ) -> Iterator[str]:
        """Stream the answer's text. on_progress: receives the number of the prompt's tokens that are read, and of all
        of them. on_usage: receives what the answer's `usage` says, at its end. options: as for `chat`.

        If the coordinator belongs to a fleet and is lost, any other one goes on with the answer.
        """
        told = on_progress is not None
        request = {"model": model, "messages": messages, "stream": True, "return_progress": told, **options}
        if on_usage is not None:
            request["stream_options"] = {"include_usage": True}
        for event in self._events("/v1/chat/completions", request):
            if on_progress is not None and (progress := event.get("prompt_progress")):
                on_progress(progress["processed"], progress["total"])
            if text := _text(event):
                yield text
            if on_usage is not None and (usage := event.get("usage")):
                on_usage(usage)

    def _events(self, path: str, request: Json) -> Iterator[Json]:
        """The events of a stream to its end. One that breaks off goes on after the last event that came, if it can."""
        course = _Course(self.url)
        while not course.is_over:
            headers = {"Last-Event-ID": course.last} if course.last else {}
            try:
                with (
                    _readable_errors(course.url),
                    self._http(_STREAM_S, course.url) as http,
                    http.stream("POST", path, json=request, headers=headers) as reply,
                ):
                    if reply.is_error:
                        reply.read()
                    _check(reply, course.url)
                    course.join(reply.headers.get("Potluck-Fleet", ""))
                    yield from course.events(reply.iter_lines())
            except PotluckError as error:
                if not course.may_go_on(error):
                    raise
                course.turn()

    def account(self) -> Json:
        """`GET /v1/account`"""
        return self._known(self._ask("GET", "/v1/account"), "account")

    def admin(self, method: str, path: str, body: Json | None = None, **query: str) -> Json:
        """The owner's part of the API. path: what comes after `/v1/admin`."""
        answer: Json = self._ask(method, f"/v1/admin/{path}", json=body, params=query)
        return answer

    def _http(self, timeout: float | httpx.Timeout, url: str = "") -> httpx.Client:
        """The way to the coordinator, or to another one of its fleet."""
        headers = {"Authorization": f"Bearer {self.key}"} if self.key else {}
        return http_client(base_url=url or self.url, headers=headers, timeout=timeout, verify=_trust())

    def _ask(self, method: str, path: str, timeout: float | httpx.Timeout = 30.0, **request: Any) -> Any:
        reply = self._send(method, path, timeout, **request)
        try:
            return reply.json()
        except ValueError as error:
            raise self._stranger() from error

    def _send(self, method: str, path: str, timeout: float | httpx.Timeout, **request: Any) -> httpx.Response:
        with self.waiting(), _readable_errors(self.url), self._http(timeout) as http:
            reply = http.request(method, path, **request)
            _check(reply, self.url)
            return reply

    def _known(self, answer: Any, *fields: str) -> Json:
        """The answer, which has one of these fields."""
        if not isinstance(answer, dict) or not any(field in answer for field in fields):
            raise self._stranger()
        return answer

    def _stranger(self) -> PotluckError:
        return PotluckError(f"{self.url} answers, but it is not a Potluck coordinator.")


class _Interrupted(PotluckError):
    """A stream broke off, or cannot go on now, for a reason that may pass."""


class _Course:
    """The course of one stream over the coordinators of a fleet. url: of the one that is asked now.

    last: the id of the last event that came. is_over: whether all of them have come.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.last = ""
        self.is_over = False
        self._fleet = [url]
        self._tries = 0
        self._until = inf

    def join(self, fleet: str) -> None:
        """Note who else can go on with the stream: their URLs, between commas."""
        for url in filter(None, map(str.strip, fleet.split(","))):
            if url not in self._fleet and _is_as_safe(url, self._fleet[0]):
                self._fleet.append(checked_url(url))

    def events(self, lines: Iterator[str]) -> Iterator[Json]:
        """The events in these lines. Raises PotluckError where one says that the stream broke off."""
        for identity, data in _parsed(lines):
            if data.startswith("{"):
                event: Json = json.loads(data)
                if event.get("error", {}).get("code") == "unavailable":
                    raise _Interrupted(event["error"]["message"])
                self.last, self._tries, self._until = identity or self.last, 0, inf
                yield event
            elif data == "[DONE]":
                self.is_over = True
                return
        if self.last:
            raise _Interrupted(f"The coordinator at {self.url} ended the answer before it was complete.")
        self.is_over = True

    def may_go_on(self, error: PotluckError) -> bool:
        """Whether the stream may go on after this error: its events have ids, and the error may pass."""
        if not self.last or not isinstance(error, _Interrupted):
            return False
        self._until = min(self._until, time.monotonic() + _RESUMING_S)
        return time.monotonic() < self._until

    def turn(self) -> None:
        """Wait a moment, and turn to the next coordinator: first to the same once more."""
        time.sleep(min(0.1 * 2**self._tries, _LONGEST_PAUSE_S))
        self.url = self._fleet[(self._fleet.index(self.url) + bool(self._tries)) % len(self._fleet)]
        self._tries += 1


def _is_as_safe(url: str, own: str) -> bool:
    """Whether the key may go to this URL, too: not in clear text if `own` is encrypted, nor to this very machine."""
    here, there = urlsplit(own), urlsplit(url)
    return there.scheme in ("https", here.scheme) and (is_here(own) or not is_here(url))


def _parsed(lines: Iterator[str]) -> Iterator[tuple[str, str]]:
    """The id and the data of each event that has come whole."""
    fields: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(": ")
        if line:
            fields[name] = value
        else:
            yield fields.get("id", ""), fields.get("data", "")
            fields = {}


def statuses(answer: Json) -> list[Json]:
    """The status of each model, from an answer of `/status`."""
    told: list[Json] = answer.get("models", [answer])
    return told


def _trust() -> ssl.SSLContext:
    """The authorities that the system trusts, or those of `SSL_CERT_FILE`. Nodes' sockets use the same, httpx has its
    own.
    """
    return ssl.create_default_context()


def _text(event: Json) -> str:
    if "error" in event:
        raise PotluckError(event["error"]["message"])
    return "".join(choice["delta"].get("content", "") for choice in event["choices"])


def _check(reply: httpx.Response, url: str) -> None:
    """Raises PotluckError, with the server's reason, unless this is the answer."""
    if reply.is_redirect:
        target = reply.headers.get("Location", "")[:_LONGEST]
        raise PotluckError(f"{url} redirects to {target}: give the address of the coordinator itself.")
    if reply.is_error:
        try:
            message = reply.json()["error"]["message"]
        except (ValueError, KeyError, TypeError):
            message = _stranger_says(reply, url)
        if reply.status_code in _PASSING:
            raise _Interrupted(message)
        raise PotluckError(f"{message} Pass it with --key or in POTLUCK_KEY." if reply.status_code == 401 else message)


def _stranger_says(reply: httpx.Response, url: str) -> str:
    """What an error means that a coordinator does not word so."""
    answers = f"answers {reply.status_code} {reply.reason_phrase}".rstrip()
    if reply.status_code in (502, 503, 504):
        return f"The server at {url} {answers}: it is a proxy, and the coordinator behind it does not answer."
    return f"There is no coordinator at {url}: the server there {answers}. Check the address."


@contextmanager
def _readable_errors(url: str) -> Iterator[None]:
    try:
        yield
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        raise _Interrupted(f"No coordinator can be reached at {way_to(url)}: {tls_fault(error) or error}.") from error
