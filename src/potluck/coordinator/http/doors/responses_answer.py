"""OpenAI's responses: an answer as a list of items, whole and as events."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

from potluck.coordinator.http.doors.teller import Called, Piece, Said, Teller, Thought, thoughts_in
from potluck.coordinator.http.errors import error_json, unfinished_json
from potluck.coordinator.http.identities import Identities
from potluck.coordinator.http.replies import Json, Usage
from potluck.coordinator.http.streaming import ALIVE
from potluck.errors import PotluckError


class ResponseTeller(Teller):
    """Tells an answer as a response. echo: the fields of its request that it repeats. identities: the answer's.

    keep: receives the finished response, and says whether it keeps it. spaces: as `ResponsesRequest.spaces`.
    """

    def __init__(
        self,
        model: str,
        echo: Json,
        usage: Usage,
        identities: Identities,
        keep: Callable[[Json], bool],
        spaces: Mapping[str, tuple[str, str]] = MappingProxyType({}),
    ) -> None:
        super().__init__(usage)
        self._identities = identities
        self._spaces = spaces
        self._keep = keep
        self._echo = echo
        self._head: Json = {
            "id": f"resp_{identities.of('response')}",
            "object": "response",
            "created_at": identities.created,
            "model": model,
        }
        self._output: list[Json] = []
        self._parts: list[str] = []
        """The pieces of the last item, which are joined when it ends."""
        self._sequence = 0

    def alive(self) -> bytes:
        return ALIVE

    def beginning(self) -> Iterator[Json]:
        for event in ("response.created", "response.in_progress"):
            yield self._event(event, response=self._response("in_progress"))

    def opening(self, piece: Piece) -> Iterator[Json]:
        self._parts = []
        match piece:
            case Thought():
                item: Json = {"id": self._new("rs"), "type": "reasoning", "summary": [], "content": []}
            case Said():
                item = {"id": self._new("msg"), "type": "message", "role": "assistant", "content": []}
            case Called():
                space, name = self._spaces.get(piece.name, (None, piece.name))
                call = {"call_id": piece.identity, "name": name, "arguments": ""}
                item = {"id": self._new("fc"), "type": "function_call", **call}
                item |= {"namespace": space} if space else {}
        self._output.append(item)
        yield self._of_item("response.output_item.added", item={**item, "status": "in_progress"})
        if not isinstance(piece, Called):
            yield self._of_part("response.content_part.added", part=_part(item, ""))

    def _new(self, prefix: str) -> str:
        """The id of the next item."""
        return f"{prefix}_{self._identities.of('item', len(self._output))}"

    def adding(self, piece: Piece) -> Iterator[Json]:
        self._parts.append(piece.text)
        match piece:
            case Thought():
                yield self._of_part("response.reasoning_text.delta", delta=piece.text)
            case Said():
                yield self._of_part("response.output_text.delta", delta=piece.text, logprobs=[])
            case Called():
                yield self._about_item("response.function_call_arguments.delta", delta=piece.text)

    def closing(self) -> Iterator[Json]:
        item, text = self._output[-1], "".join(self._parts)
        item["status"] = "incomplete" if self.finish == "length" else "completed"
        if item["type"] == "function_call":
            item["arguments"] = text
            told = {"name": item["name"], "arguments": text}
            yield self._about_item("response.function_call_arguments.done", **told)
        else:
            part = _part(item, text)
            item["content"] = [part]
            if item["type"] == "reasoning":
                yield self._of_part("response.reasoning_text.done", text=text)
            else:
                yield self._of_part("response.output_text.done", text=text, logprobs=[])
            yield self._of_part("response.content_part.done", part=part)
        yield self._of_item("response.output_item.done", item=item)

    def ending(self) -> Iterator[Json]:
        response = self.told()
        yield self._event(f"response.{response['status']}", response=response)

    def failing(self, error: PotluckError) -> Iterator[Json]:
        told = error_json(error)["error"]
        code = "rate_limit_exceeded" if told["type"] == "rate_limit_error" else "server_error"
        yield self._event("error", code=code, message=told["message"], param=told["param"])
        reason = {"code": code, "message": told["message"]}
        yield self._event("response.failed", response={**self._response("failed"), "error": reason, "store": False})

    def told(self) -> Json:
        response = self._response("incomplete" if self.finish == "length" else "completed")
        return {**response, "store": self._keep(response)}

    def broken_off(self, error: PotluckError, made: list[Any]) -> Json:
        return unfinished_json(error, made)

    def _response(self, status: str) -> Json:
        """The response as it stands."""
        is_cut = status == "incomplete"
        return {
            **self._head,
            **self._echo,
            "status": status,
            "background": False,
            "error": None,
            "incomplete_details": {"reason": "max_output_tokens"} if is_cut else None,
            "output": [item for item in self._output if "status" in item],
            "usage": None if status == "in_progress" else self._usage(),
        }

    def _usage(self) -> Json:
        usage = self.usage.json()
        return {
            "input_tokens": usage["prompt_tokens"],
            "input_tokens_details": usage["prompt_tokens_details"],
            "output_tokens": usage["completion_tokens"],
            "output_tokens_details": {"reasoning_tokens": thoughts_in(usage)},
            "total_tokens": usage["total_tokens"],
        }

    def _of_item(self, kind: str, **fields: Any) -> Json:
        """An event about the last item."""
        return self._event(kind, output_index=len(self._output) - 1, **fields)

    def _about_item(self, kind: str, **fields: Any) -> Json:
        """An event about the last item, which it names."""
        return self._of_item(kind, item_id=self._output[-1]["id"], **fields)

    def _of_part(self, kind: str, **fields: Any) -> Json:
        """An event about the only part of the last item."""
        return self._about_item(kind, content_index=0, **fields)

    def _event(self, kind: str, **fields: Any) -> Json:
        event = {"type": kind, "sequence_number": self._sequence, **fields}
        self._sequence += 1
        return event


def _part(item: Json, text: str) -> Json:
    if item["type"] == "reasoning":
        return {"type": "reasoning_text", "text": text}
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
