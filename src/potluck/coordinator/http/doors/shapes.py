"""The answers of the other doors as types, by which `openapi` describes them. The tellers make the JSON itself."""

from __future__ import annotations

from typing import Any, Literal

from msgspec import Struct


class ThinkingDetails(Struct, frozen=True):
    thinking_tokens: int


class MessageUsage(Struct, frozen=True):
    """The tokens of a message. input_tokens: those that the nodes did not hold."""

    input_tokens: int
    cache_creation_input_tokens: int
    cache_read_input_tokens: int
    output_tokens: int
    output_tokens_details: ThinkingDetails


class ContentBlock(Struct, frozen=True):
    """A block, with the fields of its type."""

    type: Literal["thinking", "text", "tool_use"]


class AnsweredMessage(Struct, frozen=True):
    """Anthropic's form of an answer."""

    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    model: str
    content: list[ContentBlock]
    stop_reason: Literal["end_turn", "max_tokens", "stop_sequence", "tool_use"]
    stop_sequence: str | None
    usage: MessageUsage


class MessageEvent(Struct, frozen=True):
    """An event of a streamed message, with the fields of its type."""

    type: Literal[
        "message_start",
        "content_block_start",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
        "ping",
        "error",
    ]


class TokenCount(Struct, frozen=True):
    input_tokens: int


class MessageErrorBody(Struct, frozen=True):
    """The body of an error. param: the field at fault, as in OpenAI's errors."""

    type: str
    message: str
    param: str | None


class MessageError(Struct, frozen=True):
    """Anthropic's form of an error."""

    type: Literal["error"]
    error: MessageErrorBody


class ResponseItem(Struct, frozen=True):
    """An item of a response, with the fields of its type."""

    id: str
    type: Literal["reasoning", "message", "function_call"]
    status: Literal["completed", "incomplete"]


class InputDetails(Struct, frozen=True):
    cached_tokens: int


class OutputDetails(Struct, frozen=True):
    reasoning_tokens: int


class ResponseUsage(Struct, frozen=True):
    input_tokens: int
    input_tokens_details: InputDetails
    output_tokens: int
    output_tokens_details: OutputDetails
    total_tokens: int


class ModelResponse(Struct, frozen=True):
    """A response, with the fields of its request."""

    id: str
    object: Literal["response"]
    created_at: int
    model: str
    status: Literal["completed", "incomplete"]
    output: list[ResponseItem]
    usage: ResponseUsage
    incomplete_details: dict[str, Any] | None
    error: None


class DeletedResponse(Struct, frozen=True):
    id: str
    object: Literal["response"]
    deleted: Literal[True]


class ResponseEvent(Struct, frozen=True):
    """An event of a streamed response, with the fields of its type."""

    type: str
    sequence_number: int
