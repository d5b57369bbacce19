"""Every field of the official clients is taken, refused, or called a hint."""

from __future__ import annotations

import re
from typing import Any

import pytest
from anthropic.types import message_count_tokens_params, message_create_params
from openai.types.responses import response_create_params

from kit.document_names import ROOT
from potluck.coordinator.http.doors.messages_request import CountRequest, MessagesRequest
from potluck.coordinator.http.doors.refused import OF_MESSAGES, OF_RESPONSES
from potluck.coordinator.http.doors.responses_request import ResponsesRequest

PAGE = (ROOT / "docs" / "api.md").read_text("utf-8")


def listed(beginning: str) -> set[str]:
    """The names in the sentence of the page that begins so."""
    return set(re.findall(r"`(\w+)`", PAGE.partition(beginning)[2].partition(".")[0]))


@pytest.mark.parametrize(
    ("theirs", "ours", "refused", "hints"),
    [
        (response_create_params.ResponseCreateParamsBase, ResponsesRequest, OF_RESPONSES, "Hints for responses"),
        (message_create_params.MessageCreateParamsBase, MessagesRequest, OF_MESSAGES, "Hints for messages"),
        (message_count_tokens_params.MessageCountTokensParams, CountRequest, OF_MESSAGES, "Hints for messages"),
    ],
)
def test_every_field_is_taken_or_refused_or_called_a_hint(theirs: Any, ours: Any, refused: Any, hints: str) -> None:
    known = {*ours.__struct_fields__, *refused}
    fields, ignored = set(theirs.__annotations__), listed(f"{hints} are ignored")
    assert len(fields) > 5
    assert fields - known <= ignored
    assert not ignored & known


@pytest.mark.parametrize("name", ["background", "context_management", "moderation", "top_logprobs"])
def test_what_is_not_supported_is_called_so(name: str) -> None:
    assert OF_RESPONSES[name].startswith(f"{name} is not supported")


def test_every_refused_field_is_documented() -> None:
    responses, messages = PAGE.partition("## Anthropic's messages")[::2]
    for names, page in ((OF_RESPONSES, responses), (OF_MESSAGES, messages)):
        told = page.rpartition("Refused, unless")[2]
        assert names.keys() <= set(re.findall(r"`(\w+)`", told))
