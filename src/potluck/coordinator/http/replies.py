"""The answers of the OpenAI API: generation's deltas as the JSON of chats and completions, whole or in chunks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import msgspec

from potluck.coordinator.generation.guesses import Guessed
from potluck.coordinator.generation.job import Delta, Scored
from potluck.coordinator.generation.reading import Progress
from potluck.coordinator.http.identities import Identities
from potluck.coordinator.swarm.tally import Outcome, Source
from potluck.coordinator.text.calls.registry import Offer
from potluck.coordinator.text.calls.stream import CallPiece, CallStream
from potluck.coordinator.text.thinking import Place, Thinking, ThinkingStream
from potluck.coordinator.text.tokenizer import Tokenizer

Json = dict[str, Any]


@dataclass
class Usage:
    """The tokens of one request, over all its choices. cached_tokens: those of the prompt that the nodes already held.

    reasoning_tokens: those of the answers that were thinking. guessed: what became of guesses; they are no tokens.
    nodes: those that computed them, with their layers. sessions: the numbers by which `/trace` knows where that was.
    stopped: the stop string that ended the last answer, if one did.
    """

    prompt_tokens: int
    completion_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    guessed: Guessed = field(default_factory=Guessed)
    nodes: tuple[str, ...] = ()
    sessions: tuple[int, ...] = ()
    stopped: str | None = None

    def count(self, delta: Delta) -> None:
        self.completion_tokens += delta.generated
        self.cached_tokens += delta.cached
        self.nodes = tuple(dict.fromkeys((*self.nodes, *delta.nodes)))
        if delta.session is not None:
            self.sessions += (delta.session,)
        self.stopped = delta.stopped or self.stopped
        self.guessed.counts.update(delta.guessed.counts)

    def json(self) -> Json:
        """The usage as JSON. Several choices have their prompt counted once, so no more than all of it can have been
        held.
        """
        total = self.prompt_tokens + self.completion_tokens
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": total,
            "prompt_tokens_details": {"cached_tokens": min(self.cached_tokens, self.prompt_tokens)},
            "completion_tokens_details": {
                "reasoning_tokens": self.reasoning_tokens,
                "accepted_prediction_tokens": self.guessed.of(Outcome.RIGHT, source=Source.PREDICTION),
                "rejected_prediction_tokens": self.guessed.of(Outcome.WRONG, Outcome.VOID, source=Source.PREDICTION),
            },
            "nodes": list(self.nodes),
            **self._guesses(),
        }

    def _guesses(self) -> Json:
        """The guesses by what became of them, if there were any."""
        counts = {outcome.value: self.guessed.of(outcome) for outcome in Outcome}
        return {"guesses": counts} if any(counts.values()) else {}


def progress_json(progress: Progress) -> Json:
    """The progress in the form of llama.cpp's server."""
    return {
        "total": progress.total,
        "cache": progress.cached,
        "processed": progress.processed,
        "time_ms": round(1000 * progress.elapsed_s),
        **({} if progress.loading is None else {"loading": round(progress.loading, 3)}),
    }


class Logprobs:
    """The log-probabilities of a whole answer, as JSON that is made while the answer is: at its end it would take
    long.
    """

    def __init__(self) -> None:
        self._lists: dict[str, list[bytes]] = {}
        self._others: Json | None = None

    def add(self, logprobs: Json | None) -> int:
        """Add those of some tokens, in the form of a chunk. Returns the bytes that they take."""
        if logprobs is None:
            return 0
        size = 0
        self._others = {name: value for name, value in logprobs.items() if not isinstance(value, list)}
        for name, values in logprobs.items():
            if isinstance(values, list):
                written = [msgspec.json.encode(value) for value in values]
                self._lists.setdefault(name, []).extend(written)
                size += sum(map(len, written))
        return size

    def json(self) -> Json | None:
        if self._others is None:
            return None
        lists = {name: msgspec.Raw(b"[" + b",".join(values) + b"]") for name, values in self._lists.items()}
        return {**lists, **self._others}


class Form(Protocol):
    """The form of one kind of answer."""

    def head(self, *, chunk: bool) -> Json:
        """The fields around the choices."""

    def opening(self, index: int) -> list[Json]:
        """The choice's chunks before its first token."""

    def chunk(self, index: int, delta: Delta) -> Json:
        """The choice of one chunk."""

    def logprobs_of(self, index: int, tokens: list[Scored]) -> Json | None:
        """The log-probabilities of the next tokens of a choice; None if they were not asked for."""

    def choice(self, index: int, deltas: list[Delta]) -> Json:
        """The choice of a whole answer."""


@dataclass
class BaseForm:
    model: str
    tokenizer: Tokenizer
    logprobs: bool
    identities: Identities = field(default_factory=Identities.fresh)

    def _head(self, prefix: str, kind: str) -> Json:
        identity, created = f"{prefix}-{self.identities.of('answer')}", self.identities.created
        return {"id": identity, "object": kind, "created": created, "model": self.model}

    def _token(self, token: int) -> str:
        """The token's text, with a part of a character written as OpenAI writes it: as escapes of its bytes."""
        return self.tokenizer.piece(token, special=True).decode("utf-8", "backslashreplace")


class ChatForm(BaseForm):
    """The form of chats. offer: the tools that the model may call; without it, everything that it says is text.

    thinking: its marks. place: where in the answer the prompt ends. tells_thinking: the client wants to see it.
    usage: where the tokens of thinking are counted. identities: the answer's.
    """

    def __init__(
        self,
        model: str,
        tokenizer: Tokenizer,
        logprobs: bool,
        offer: Offer | None = None,
        *,
        thinking: Thinking = Thinking.THINK,
        place: Place = Place.BEFORE,
        tells_thinking: bool = True,
        usage: Usage | None = None,
        identities: Identities | None = None,
    ) -> None:
        super().__init__(model, tokenizer, logprobs, identities or Identities.fresh())
        self._offer = offer
        self._thinking, self._begin, self._usage = thinking, place, usage or Usage(0)
        self._thoughts: dict[int, ThinkingStream] = {}
        self._tells_thinking = tells_thinking
        self._streams: dict[int, CallStream] = {}

    def head(self, *, chunk: bool) -> Json:
        return self._head("chatcmpl", "chat.completion.chunk" if chunk else "chat.completion")

    def opening(self, index: int) -> list[Json]:
        delta = {"role": "assistant", "content": ""}
        return [{"index": index, "delta": delta, "logprobs": None, "finish_reason": None}]

    def chunk(self, index: int, delta: Delta) -> Json:
        thought, text = self._thought(index, delta)
        text, pieces, finish = self._told(index, text, delta.finish)
        calls = [{"index": place, **call} for place, call in self._calls(index, pieces).items()]
        told = {"reasoning_content": thought, "content": text, "tool_calls": calls}
        return {
            "index": index,
            "delta": {name: value for name, value in told.items() if value},
            "logprobs": self.logprobs_of(index, delta.tokens),
            "finish_reason": finish,
        }

    def choice(self, index: int, deltas: list[Delta]) -> Json:
        thought, text = ("".join(some) for some in zip(*(self._thought(index, one) for one in deltas), strict=True))
        text, pieces, finish = self._told(index, text, deltas[-1].finish)
        calls = list(self._calls(index, pieces).values())
        content = {"content": text.strip() or None, "tool_calls": calls} if calls else {"content": text}
        reasoning = {"reasoning_content": thought, "content": content["content"] or None} if thought else {}
        return {
            "index": index,
            "message": {"role": "assistant", **content, **reasoning, "refusal": None},
            "logprobs": self.logprobs_of(index, [token for delta in deltas for token in delta.tokens]),
            "finish_reason": finish,
        }

    def _thought(self, index: int, delta: Delta) -> tuple[str, str]:
        """The thinking and the text of a piece of the answer."""
        stream = self._thoughts.setdefault(index, ThinkingStream(self._thinking.value, self._begin))
        counted = stream.tokens
        thought, text = stream.push(delta.text, delta.generated)
        rest = stream.finish() if delta.finish is not None else ("", "")
        self._usage.reasoning_tokens += stream.tokens - counted
        return thought + rest[0] if self._tells_thinking else "", text + rest[1]

    def _told(self, index: int, text: str, finish: str | None) -> tuple[str, list[CallPiece], str | None]:
        """The text, the pieces of calls, and how the answer ends."""
        if self._offer is None:
            return text, [], finish
        stream = self._streams.setdefault(index, self._offer.stream())
        text, pieces = stream.push(text)
        if finish is not None:
            rest, last = stream.finish()
            text, pieces = text + rest, [*pieces, *last]
        if self._offer.demanded:
            text = ""  # the beginning of a call that was cut off
        ended = "tool_calls" if finish == "stop" and stream.calls_are_whole else finish
        return text, pieces, ended

    def watch(self) -> Callable[[str], bool]:
        """What is told the text of an answer piece by piece, and says when its one call is complete."""
        assert self._offer is not None
        thoughts, calls = ThinkingStream(self._thinking.value, self._begin), self._offer.stream()

        def is_over(text: str) -> bool:
            calls.push(thoughts.push(text)[1])
            return calls.is_over

        return is_over

    def _calls(self, index: int, pieces: list[CallPiece]) -> dict[int, Json]:
        """The calls of a choice by their numbers. Each begins with its id and name; later pieces bring more of its
        arguments.
        """
        calls: dict[int, Json] = {}
        for piece in pieces:
            if piece.name is not None and self._offer is not None:
                function = {"name": piece.name, "arguments": ""}
                identity = self._offer.dialect.identity(self.identities.of("call", index, piece.index))
                calls[piece.index] = {"id": identity, "type": "function", "function": function}
            call = calls.setdefault(piece.index, {"function": {"arguments": ""}})
            call["function"]["arguments"] += piece.arguments
        return calls

    def logprobs_of(self, _: int, tokens: list[Scored]) -> Json | None:
        if not self.logprobs:
            return None
        return {"content": [self._scored(scored) for scored in tokens], "refusal": None}

    def _scored(self, scored: Scored) -> Json:
        top = [self._entry(token, logprob) for token, logprob in scored.top]
        return {**self._entry(scored.token, scored.logprob), "top_logprobs": top}

    def _entry(self, token: int, logprob: float | None) -> Json:
        return {
            "token": self._token(token),
            "logprob": logprob,
            "bytes": list(self.tokenizer.piece(token, special=True)),
        }
