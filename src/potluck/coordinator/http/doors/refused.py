"""The fields of the other doors that would change an answer in ways that Potluck cannot."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from potluck.coordinator.http.habits import NOTHING, is_neutral
from potluck.errors import RequestError

OF_MESSAGES: Mapping[str, str] = {
    "container": "container needs code that Anthropic runs: leave it out.",
    "inference_geo": "inference_geo cannot be promised: the nodes of a swarm may be anywhere.",
    "mcp_servers": "MCP servers are not called from here: offer their tools as tools.",
}
OF_RESPONSES: Mapping[str, str] = {
    "background": "background is not supported: responses are made while their client waits.",
    "context_management": "context_management is not supported: send the history as the model is to read it.",
    "conversation": "conversation is not kept here: use previous_response_id, or send the whole history.",
    "moderation": "moderation is not supported: leave it out.",
    "prompt": "prompt names a template that OpenAI keeps: send its text as instructions and input.",
    "top_logprobs": "top_logprobs is not supported for responses: ask /v1/chat/completions for log-probabilities.",
}
"""The sentence for each."""


def refuse(sentences: Mapping[str, str], fields: Mapping[str, msgspec.Raw]) -> None:
    """Raises RequestError when one of these fields has a value that asks for something."""
    for name in sentences.keys() & fields.keys():
        if not is_neutral(fields[name], (*NOTHING, 0)):
            raise RequestError(sentences[name], param=name)
