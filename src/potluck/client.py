"""A small client of a coordinator's HTTP API for the command line, and for requests that OpenAI's client lacks."""

from __future__ import annotations

import json
import re
import ssl
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import httpx

from potluck.errors import PotluckError
from potluck.network import http_client, tls_fault, way_to

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

Json = dict[str, Any]
Messages = Sequence[Mapping[str, Any]]
"""The messages of a chat in OpenAI's form: `{"role": "user", "content": "…"}`."""

_ANSWER_S = httpx.Timeout(10.0, read=None)
"""A slow swarm may take minutes for a token; connecting takes seconds."""

_API = re.compile(r"(?<=[^/:])/+v1(/+(chat/+completions|completions|models|responses|messages|embeddings))?$")
"""What people copy with a base URL."""
_LONGEST = 200
"""The most characters of a redirect that are repeated."""
_SCHEMES = {"": "http", "ws": "http", "wss": "https"}


def checked_url(text: str) -> str:
    """The coordinator's URL without a trailing slash, and without the path of OpenAI's API, which may follow it.

    `http://` is added if there is no scheme. `ws://` and `wss://` are replaced by the schemes that they run on. Raises
    PotluckError when the text is not such a URL.
    """
    scheme, _, rest = text.rpartition("://")
    url = _API.sub("", f"{_SCHEMES.get(scheme, scheme)}://{rest}".rstrip("/"))
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # brackets that do not match, a port that is no number
        usable = False
    if not usable:
        raise PotluckError(f"{text!r} is not a coordinator's URL: write it as http://192.168.1.5:8470.")
    return url


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
    ) -> Iterator[str]:
        """Stream the answer's text. on_progress: receives the number of the prompt's tokens that are read, and of all
        of them. on_usage: receives what the answer's `usage` says, at its end.
        """
        request = {"model": model, "messages": messages, "stream": True, "return_progress": on_progress is not None}
        if on_usage is not None:
            request["stream_options"] = {"include_usage": True}
        with (
            _readable_errors(self.url),
            self._http(_ANSWER_S) as http,
            http.stream("POST", "/v1/chat/completions", json=request) as reply,
        ):
            if reply.is_error:
                reply.read()
            _check(reply, self.url)
            for line in reply.iter_lines():
                if not line.startswith("data: {"):
                    continue
                event = json.loads(line.removeprefix("data: "))
                if on_progress is not None and (progress := event.get("prompt_progress")):
                    on_progress(progress["processed"], progress["total"])
                if text := _text(event):
                    yield text
                if on_usage is not None and (usage := event.get("usage")):
                    on_usage(usage)

    def account(self) -> Json:
        """`GET /v1/account`"""
        return self._known(self._ask("GET", "/v1/account"), "account")

    def admin(self, method: str, path: str, body: Json | None = None, **query: str) -> Json:
        """The owner's part of the API. path: what comes after `/v1/admin`."""
        answer: Json = self._ask(method, f"/v1/admin/{path}", json=body, params=query)
        return answer

    def _http(self, timeout: float | httpx.Timeout) -> httpx.Client:
        headers = {"Authorization": f"Bearer {self.key}"} if self.key else {}
        return http_client(base_url=self.url, headers=headers, timeout=timeout, verify=_trust())

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
        raise PotluckError(f"No coordinator can be reached at {way_to(url)}: {tls_fault(error) or error}.") from error
