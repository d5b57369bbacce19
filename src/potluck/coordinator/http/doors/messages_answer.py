"""Anthropic's messages: an answer as blocks of content, whole and as events."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

import msgspec

from potluck.coordinator.http.doors.teller import Called, Piece, Said, Teller, Thought, thoughts_in
from potluck.coordinator.http.errors import messages_error
from potluck.coordinator.http.identities import Identities
from potluck.coordinator.http.replies import Json, Usage
from potluck.errors import PotluckError

_PING = b'event: ping\ndata: {"type":"ping"}\n\n'
_UNSIGNED = "unsigned"
"""The signature of all thoughts. Clients insist on one; nobody checks it, because thoughts that come back are left
out.
"""
_REASONS = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use"}


class MessageTeller(Teller):
    """Tells an answer as a message. stops: the stop sequences that were asked for. identities: the answer's."""

    def __init__(self, model: str, stops: Collection[str], usage: Usage, identities: Identities) -> None:
        super().__init__(usage)
        self._stops = stops
        identity = f"msg_{identities.of('message')}"
        self._head: Json = {"id": identity, "type": "message", "role": "assistant", "model": model}
        self._content: list[Json] = []
        self._parts: list[str] = []
        """The pieces of the last block, which are joined when it ends."""

    def alive(self) -> bytes:
        return _PING

    def beginning(self) -> Iterator[Json]:
        empty: Json = {"content": [], "stop_reason": None, "stop_sequence": None, "usage": self._usage()}
        yield {"type": "message_start", "message": {**self._head, **empty}}

    def opening(self, piece: Piece) -> Iterator[Json]:
        match piece:
            case Thought():
                block: Json = {"type": "thinking", "thinking": "", "signature": ""}
            case Said():
                block = {"type": "text", "text": ""}
            case Called():
                identity = f"toolu_{piece.identity.removeprefix('call_')}"
                block = {"type": "tool_use", "id": identity, "name": piece.name, "input": {}}
        self._content.append(block)
        self._parts = []
        yield {"type": "content_block_start", "index": self._index, "content_block": {**block}}

    def adding(self, piece: Piece) -> Iterator[Json]:
        self._parts.append(piece.text)
        match piece:
            case Thought():
                yield self._delta({"type": "thinking_delta", "thinking": piece.text})
            case Said():
                yield self._delta({"type": "text_delta", "text": piece.text})
            case Called():
                yield self._delta({"type": "input_json_delta", "partial_json": piece.text})

    def closing(self) -> Iterator[Json]:
        block, text = self._content[-1], "".join(self._parts)
        match block["type"]:
            case "thinking":
                block["thinking"], block["signature"] = text, _UNSIGNED
                yield self._delta({"type": "signature_delta", "signature": _UNSIGNED})
            case "text":
                block["text"] = text
            case "tool_use":
                block["input"] = _input(text)
        yield {"type": "content_block_stop", "index": self._index}

    def ending(self) -> Iterator[Json]:
        yield {"type": "message_delta", "delta": self._reason(), "usage": self._usage()}
        yield {"type": "message_stop"}

    def failing(self, error: PotluckError) -> Iterator[Json]:
        yield messages_error(error)

    def told(self) -> Json:
        return {**self._head, "content": self._content, **self._reason(), "usage": self._usage()}

    def broken_off(self, error: PotluckError, made: list[Any]) -> Json:
        return messages_error(error)

    @property
    def _index(self) -> int:
        return len(self._content) - 1

    def _delta(self, delta: Json) -> Json:
        return {"type": "content_block_delta", "index": self._index, "delta": delta}

    def _reason(self) -> Json:
        stop = self.usage.stopped if self.finish == "stop" and self.usage.stopped in self._stops else None
        return {"stop_reason": "stop_sequence" if stop else _REASONS[self.finish or "stop"], "stop_sequence": stop}

    def _usage(self) -> Json:
        """Anthropic does not count cached tokens among those of the input."""
        usage = self.usage.json()
        cached = usage["prompt_tokens_details"]["cached_tokens"]
        return {
            "input_tokens": usage["prompt_tokens"] - cached,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": cached,
            "output_tokens": usage["completion_tokens"],
            "output_tokens_details": {"thinking_tokens": thoughts_in(usage)},
        }


def _input(arguments: str) -> Json:
    """The arguments of a call; empty if it was cut off, or if the model wrote something else."""
    try:
        return msgspec.json.decode(arguments or "{}", type=dict[str, Any])
    except (msgspec.DecodeError, RecursionError):
        return {}
