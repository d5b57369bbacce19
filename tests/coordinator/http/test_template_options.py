"""What the template and the answer make of a chat's fields, from the request to the reply."""

import json
from collections.abc import AsyncGenerator
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette

from kit.runner import run
from potluck.coordinator.generation.job import Delta, Job
from potluck.coordinator.http.errors import error_response
from potluck.coordinator.http.models import Models
from potluck.coordinator.http.openai import OpenAI
from potluck.coordinator.http.routes import routes_of
from potluck.coordinator.http.service import Service
from potluck.coordinator.text.encoder import PlainEncoder
from potluck.coordinator.text.template import ChatTemplate
from potluck.errors import PotluckError

CHAT = "/v1/chat/completions"
HI: dict[str, Any] = {"role": "user", "content": "Hi"}
SAID: dict[str, Any] = {"role": "assistant", "content": "The capital "}

TURNS = "{% for m in messages %}<{{ m.role }}>{{ m.content | trim }}<end>{% endfor %}"
PLAIN = TURNS + "{% if add_generation_prompt %}<assistant>{% endif %}"
OPENS = TURNS + "{% if add_generation_prompt %}<assistant><think>\n{% endif %}"
SWITCH = (
    TURNS + "{% if add_generation_prompt %}<assistant>"
    "{% if enable_thinking is defined and not enable_thinking %}<think></think>{% else %}<think>{% endif %}{% endif %}"
)
TELLS = "{{ [enable_thinking, thinking, reasoning_effort] | map('string') | join(' ') }}"


class Tokens:
    """A tokenizer of one token a byte, and control tokens."""

    controls = ("<end>", "<think>", "</think>")
    vocabulary = 256 + len(controls)
    stop_ids = frozenset({0})
    bos = eos = ""
    chat_template = None
    tool_template = None

    def encode(self, text: str, *, special: bool, bos: bool) -> list[int]:
        tokens = []
        while text:
            control = next((one for one in self.controls if text.startswith(one)), None) if special else None
            head = control or text[0]
            tokens += [256 + self.controls.index(control)] if control else list(head.encode())
            text = text[len(head) :]
        return tokens

    def piece(self, token: int, *, special: bool = False) -> bytes:
        return bytes([token]) if token < 256 else self.controls[token - 256].encode() if special else b""

    def name(self, token: int) -> str:
        return self.piece(token, special=True).decode("utf-8", "replace")


class Player:
    """Answers every chat with these deltas, and keeps what it was asked for."""

    def __init__(self, template: str | None, *said: str, finish: str = "stop") -> None:
        self.jobs: list[Job] = []
        self._deltas = [*map(Delta, said), Delta(finish=finish)]
        encoder = PlainEncoder(Tokens(), ChatTemplate(template))
        service = Service(self._generate, Tokens(), encoder, "tiny", 512, 1, embedded=Tokens.vocabulary)
        self._app = Starlette(
            routes=routes_of(OpenAI(Models(service))), exception_handlers={PotluckError: error_response}
        )

    async def _generate(self, job: Job) -> AsyncGenerator[Delta, None]:
        self.jobs.append(job)
        for delta in self._deltas:
            yield delta

    def ask(self, **fields: Any) -> httpx.Response:
        async def post() -> httpx.Response:
            transport = httpx.ASGITransport(self._app)
            async with httpx.AsyncClient(transport=transport, base_url="http://potluck") as http:
                return await http.post(CHAT, json={"model": "tiny", "messages": [HI], **fields})

        return run(post())

    @property
    def prompt(self) -> str:
        return "".join(map(Tokens().name, self.jobs[-1].prompt))


def prompt_of(template: str | None, **fields: Any) -> str:
    player = Player(template, "x")
    assert player.ask(**fields).status_code == 200
    return player.prompt


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({}, "  "),
        ({"enable_thinking": False}, "False False "),
        ({"reasoning_effort": "none"}, "False False none"),
        ({"reasoning_effort": "minimal"}, "False False minimal"),
        ({"reasoning_effort": "low"}, "True True low"),
        ({"reasoning": {"effort": "high"}}, "True True high"),
        ({"reasoning": {"enabled": False}}, "False False "),
        ({"reasoning": {"exclude": True}, "reasoning_effort": None}, "  "),
        ({"thinking": {"type": "disabled"}}, "False False "),
        ({"thinking": {"type": "enabled", "budget_tokens": 9}}, "True True "),
        ({"enable_thinking": True, "reasoning_effort": "none"}, "True True none"),
        ({"enable_thinking": True, "chat_template_kwargs": {"enable_thinking": False}}, "False True "),
        ({"reasoning_effort": "low", "chat_template_kwargs": {"reasoning_effort": "max"}}, "True True max"),
    ],
)
def test_the_template_is_told_how_much_to_think(fields: dict[str, Any], told: str) -> None:
    assert prompt_of(TELLS, **fields) == told


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"reasoning_effort": 5}, "reasoning_effort"),
        ({"reasoning": "high"}, "reasoning"),
        ({"thinking": {"type": "perhaps"}}, "thinking.type"),
        ({"enable_thinking": "yes"}, "enable_thinking"),
        ({"chat_template_kwargs": {"continue_final_message": True}}, "chat_template_kwargs"),
        (
            {"messages": [HI, SAID], "continue_final_message": True, "add_generation_prompt": True},
            "continue_final_message",
        ),
        ({"continue_final_message": True}, "continue_final_message"),
        (
            {"messages": [HI, {**SAID, "tool_calls": [{"function": {"name": "f"}}]}], "continue_final_message": True},
            "continue_final_message",
        ),
    ],
)
def test_what_contradicts_itself_is_refused(fields: dict[str, Any], param: str) -> None:
    reply = Player(PLAIN, "x").ask(**fields)
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, param)


CONTINUED = "<user>Hi<end><assistant>The capital "
ANEW = "<user>Hi<end><assistant>The capital<end><assistant>"


@pytest.mark.parametrize(
    ("fields", "prompt"),
    [
        ({}, CONTINUED),
        ({"continue_final_message": True}, CONTINUED),
        ({"continue_final_message": True, "add_generation_prompt": False}, CONTINUED),
        ({"add_generation_prompt": False}, CONTINUED),
        ({"add_generation_prompt": True}, ANEW),
        ({"continue_final_message": False}, ANEW),
        ({"continue_final_message": False, "add_generation_prompt": False}, ANEW.removesuffix("<assistant>")),
        ({"messages": [HI], "add_generation_prompt": False}, "<user>Hi<end>"),
        ({"messages": [HI], "add_generation_prompt": True}, "<user>Hi<end><assistant>"),
        ({"messages": [HI, {"role": "assistant", "content": " "}]}, "<user>Hi<end><assistant>"),
        (
            {"messages": [HI, {"role": "assistant", "content": "a", "tool_calls": [{"function": {"name": "f"}}]}]},
            '<user>Hi<end><assistant>a\n{"name": "f", "arguments": {}}<end><assistant>',
        ),
        (
            {"messages": [HI, {"role": "assistant", "content": [{"type": "text", "text": "A \n"}]}]},
            "<user>Hi<end><assistant>A \n",
        ),
    ],
)
def test_the_last_message_is_continued(fields: dict[str, Any], prompt: str) -> None:
    assert prompt_of(PLAIN, **{"messages": [HI, SAID], **fields}) == prompt


def test_the_reply_to_a_prefill_is_only_what_is_new() -> None:
    [choice] = Player(PLAIN, "is", " Paris.").ask(messages=[HI, SAID]).json()["choices"]
    assert choice["message"] == {"role": "assistant", "content": "is Paris.", "refusal": None}


def test_the_plain_dialogue_is_continued_too() -> None:
    assert prompt_of(None, messages=[HI, SAID]) == "User: Hi\n\nAssistant: The capital "


SPLIT = ("I ", "muse", "</thi", "nk>", "\n\n", "Ans", "wer")
SPLIT_CALL = ("I muse</think>", "\n", '<tool_call>{"name": "rain", ', '"arguments": {}}</tool_call>')
RAIN = {"type": "function", "function": {"name": "rain"}}


def streamed(reply: httpx.Response) -> tuple[dict[str, str], dict[str, Any]]:
    """The parts of the streamed message put together, and the usage."""
    lines = [line.removeprefix("data: ") for line in reply.text.splitlines() if line.startswith("data: {")]
    chunks = list(map(json.loads, lines))
    parts: dict[str, str] = {}
    for delta in (choice["delta"] for chunk in chunks for choice in chunk["choices"]):
        for name in ("reasoning_content", "content"):
            parts[name] = parts.get(name, "") + delta.get(name, "")
    return parts, chunks[-1]["usage"]


@pytest.mark.parametrize(
    ("template", "said", "thought", "text", "tokens"),
    [
        (OPENS, SPLIT, "I muse", "Answer", 4),
        (PLAIN, ("<think>", *SPLIT), "I muse", "Answer", 5),
        (PLAIN, ("Answer ", "<think>x</think>"), "", "Answer <think>x</think>", 0),
        (OPENS, ("I ", "muse"), "I muse", "", 3),
        (OPENS, ("</think>", "Answer"), "", "Answer", 1),
    ],
)
def test_thinking_whole_and_streamed(
    template: str, said: tuple[str, ...], thought: str, text: str, tokens: int
) -> None:
    player = Player(template, *said)
    reply = player.ask().json()
    message = reply["choices"][0]["message"]
    assert message.get("reasoning_content", "") == thought
    assert message["content"] == (text or None)
    parts, usage = streamed(player.ask(stream=True, stream_options={"include_usage": True}))
    assert parts == {"reasoning_content": thought, "content": text}
    assert reply["usage"]["completion_tokens_details"]["reasoning_tokens"] == tokens
    assert usage == reply["usage"]


@pytest.mark.parametrize("fields", [{"include_reasoning": False}, {"reasoning": {"exclude": True}}])
def test_thinking_may_be_left_out_and_is_counted_nevertheless(fields: dict[str, Any]) -> None:
    player = Player(OPENS, *SPLIT)
    reply = player.ask(**fields).json()
    assert reply["choices"][0]["message"] == {"role": "assistant", "content": "Answer", "refusal": None}
    assert reply["usage"]["completion_tokens_details"]["reasoning_tokens"] == 4
    parts, usage = streamed(player.ask(stream=True, stream_options={"include_usage": True}, **fields))
    assert parts == {"reasoning_content": "", "content": "Answer"}
    assert usage == reply["usage"]


def test_the_thinking_of_several_answers_is_kept_apart_and_counted_together() -> None:
    reply = Player(OPENS, *SPLIT).ask(n=2).json()
    told = [(one["message"]["reasoning_content"], one["message"]["content"]) for one in reply["choices"]]
    assert told == [("I muse", "Answer")] * 2
    assert reply["usage"]["completion_tokens_details"]["reasoning_tokens"] == 8


def test_calls_come_after_thinking() -> None:
    [choice] = Player(OPENS, *SPLIT_CALL).ask(tools=[RAIN]).json()["choices"]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["reasoning_content"] == "I muse"
    assert choice["message"]["content"] is None
    assert [call["function"]["name"] for call in choice["message"]["tool_calls"]] == ["rain"]


def test_the_log_probabilities_keep_the_tokens_of_thinking() -> None:
    [choice] = Player(OPENS, *SPLIT).ask(logprobs=True).json()["choices"]
    assert choice["logprobs"] == {"content": [], "refusal": None}  # the player gives none, and none is left out


def test_where_thinking_is_off_the_answer_is_text() -> None:
    [choice] = Player(SWITCH, "Answer").ask(enable_thinking=False).json()["choices"]
    assert choice["message"] == {"role": "assistant", "content": "Answer", "refusal": None}
    [choice] = Player(SWITCH, "Answer").ask().json()["choices"]
    assert (choice["message"]["content"], choice["message"]["reasoning_content"]) == (None, "Answer")


@pytest.mark.parametrize(
    ("last", "prompt"),
    [
        ({"content": "<think>\nI mu"}, "<user>Hi<end><assistant><think>\nI mu"),
        ({"content": "<think>I mu"}, "<user>Hi<end><assistant><think>\nI mu"),
        ({"content": "", "reasoning_content": "I mu"}, "<user>Hi<end><assistant><think>\nI mu"),
    ],
)
def test_thinking_is_continued(last: dict[str, Any], prompt: str) -> None:
    player = Player(OPENS, "se</think>Answer")
    [choice] = player.ask(messages=[HI, {"role": "assistant", **last}]).json()["choices"]
    assert player.prompt == prompt
    assert (choice["message"]["reasoning_content"], choice["message"]["content"]) == ("se", "Answer")


def test_a_prefill_after_thinking_is_text() -> None:
    player = Player(OPENS, "is")
    last = {"role": "assistant", "content": "<think>hm</think>\n\nThe capital "}
    [choice] = player.ask(messages=[HI, last]).json()["choices"]
    assert player.prompt == "<user>Hi<end><assistant>The capital "
    assert choice["message"]["content"] == "is"
    assert "reasoning_content" not in choice["message"]


def test_what_continues_a_text_does_not_begin_with_thinking() -> None:
    [choice] = Player(OPENS, "<think>", "</think>").ask(messages=[HI, SAID]).json()["choices"]
    assert choice["message"] == {"role": "assistant", "content": "<think></think>", "refusal": None}


@pytest.mark.parametrize("template", [OPENS, PLAIN])
def test_a_prescribed_form_is_of_a_whole_answer(template: str) -> None:
    reply = Player(template, "x").ask(messages=[HI, SAID], response_format={"type": "json_object"})
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, "response_format")
    assert "the last message begins one" in reply.json()["error"]["message"]


@pytest.mark.parametrize(
    ("template", "messages", "begins"),
    [
        (OPENS, [HI], "start: thought"),
        (SWITCH, [HI], "start: thought"),
        (PLAIN + "{# <think> #}", [HI], "start: (<[257]> thought"),
        (OPENS, [HI, {**SAID, "content": "<think>I mu"}], "start: thought"),
        (PLAIN, [HI], None),
    ],
)
def test_a_prescribed_form_holds_after_thinking(
    template: str, messages: list[dict[str, Any]], begins: str | None
) -> None:
    player = Player(template, "x")
    assert player.ask(messages=messages, response_format={"type": "json_object"}).status_code == 200
    assert player.jobs[-1].grammar is not None
    source = json.loads(player.jobs[-1].grammar.source)["grammars"][0].get("lark_grammar") or ""
    assert source.startswith(begins) if begins else "thought" not in source


def test_past_thinking_is_not_sent_back() -> None:
    past = {"role": "assistant", "content": "<think>hm</think>\n\nYes.", "reasoning_content": "hm"}
    assert prompt_of(OPENS, messages=[HI, past, HI]).startswith("<user>Hi<end><assistant>Yes.<end><user>")
    parts = [{"type": "thinking", "thinking": "hm", "signature": "s"}, {"type": "text", "text": "Yes."}]
    assert "hm" not in prompt_of(OPENS, messages=[HI, {"role": "assistant", "content": parts}, HI])


def test_marks_that_are_control_tokens_are_shown() -> None:
    player = Player(OPENS, "x")
    player.ask()
    assert player.jobs[-1].shown == {257, 258}


@pytest.mark.parametrize(
    ("template", "fields", "ids", "stops"),
    [
        (PLAIN, {}, {256}, ()),
        (PLAIN, {"stop_token_ids": [7]}, {7, 256}, ()),
        (PLAIN, {"ignore_eos": True}, set(), ()),
        (PLAIN.replace("<end>", "\n<|im_end|>\n"), {}, set(), ("<|im_end|>",)),
        (PLAIN.replace("<end>", "<|im_end|>"), {"ignore_eos": True}, set(), ()),
        (PLAIN.replace("<end>", "\n"), {}, set(), ()),
    ],
)
def test_what_the_template_writes_after_an_answer_ends_it(
    template: str, fields: dict[str, Any], ids: set[int], stops: tuple[str, ...]
) -> None:
    player = Player(template, "x")
    assert player.ask(**fields).status_code == 200
    assert (player.jobs[-1].stop_ids, player.jobs[-1].stops) == (ids, stops)
