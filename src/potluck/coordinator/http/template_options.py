"""What a chat's template is told by its request: how much to think, and whether the answer continues a message."""

from __future__ import annotations

from typing import Any

import msgspec

from potluck.coordinator.http.requests import ChatRequest, Reasoning
from potluck.errors import RequestError

_OWN = frozenset(
    {"self", "messages", "tools", "add_generation_prompt", "continue_final_message", "bos_token", "eos_token"}
)
"""What chat_template_kwargs may not set."""

_NO_EFFORT = ("none", "minimal")


def template_options(asked: ChatRequest) -> dict[str, Any]:
    """The options of `ChatTemplate.prompt`, and the variables of the template. chat_template_kwargs take precedence."""
    own = asked.chat_template_kwargs or {}
    if taken := _OWN & own.keys():
        message = f"chat_template_kwargs may not set {', '.join(sorted(taken))}."
        raise RequestError(message, param="chat_template_kwargs")
    tools = msgspec.to_builtins(asked.offered) or None
    ending = {
        "continue_final_message": continues(asked),
        "add_generation_prompt": asked.add_generation_prompt is not False,
    }
    return {"tools": tools, **_thinking(asked), **own, **ending}


def _thinking(asked: ChatRequest) -> dict[str, Any]:
    """Templates know one of two names for whether to think at all."""
    reasoning = asked.reasoning or Reasoning()
    effort = asked.reasoning_effort or reasoning.effort
    given = (
        asked.enable_thinking,
        reasoning.enabled,
        None if asked.thinking is None else asked.thinking.type != "disabled",
        None if effort is None else effort not in _NO_EFFORT,
    )
    thinks = next((one for one in given if one is not None), None)
    told = {"reasoning_effort": effort, "enable_thinking": thinks, "thinking": thinks}
    return {name: value for name, value in told.items() if value is not None}


def continues(asked: ChatRequest) -> bool:
    """Whether the answer continues the last message: if that is the assistant's and calls no tools, unless the request
    says otherwise.
    """
    last = asked.messages[-1]
    can_continue = last.get("role") == "assistant" and not (last.get("tool_calls") or last.get("function_call"))
    prompts, told = asked.add_generation_prompt, asked.continue_final_message
    if prompts and told:
        message = "continue_final_message and add_generation_prompt cannot both be true."
        raise RequestError(message, param="continue_final_message")
    if told and not can_continue:
        message = "continue_final_message needs a last message that is the assistant's and calls no tools."
        raise RequestError(message, param="continue_final_message")
    return can_continue and not prompts if told is None else told


def continued(asked: ChatRequest) -> str:
    """The text that the answer continues."""
    content = asked.messages[-1].get("content") if continues(asked) else ""
    return content if isinstance(content, str) else ""
