"""What a client is told of a value outside the bounds that the request's type declares."""

import json
from typing import Annotated, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Meta, Struct

from potluck.coordinator.http.parsing import parse, refused_with
from potluck.coordinator.http.requests import ChatRequest, CompletionRequest
from potluck.coordinator.http.research_requests import HiddenStatesRequest
from potluck.errors import RequestError

PROMPT = "prompt must be a text, a list of token ids, or a list of up to 2048 of these, none empty."
STOP = "stop takes up to 256 strings of up to 512 characters, and 4096 in all."


class Order(Struct, frozen=True):
    """A request with all kinds of bounds."""

    size: Annotated[int, Meta(ge=1, le=9)] | None = None
    weight: Annotated[float, Meta(ge=0.5)] | None = None
    price: Annotated[float, refused_with("A dish has a price, not {value}.", gt=0)] | None = None
    names: dict[str, Annotated[float, Meta(ge=0, le=1)]] | None = None
    dishes: list[Annotated[str, refused_with("{field} have names.", min_length=1)]] | None = None


def told(kind: type[Struct], **fields: Any) -> tuple[str, str | None]:
    with pytest.raises(RequestError) as caught:
        parse(json.dumps(fields).encode(), kind)
    assert caught.value.status == 400
    return str(caught.value), caught.value.param


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"size": 0}, "size must lie between 1 and 9, not 0."),
        ({"size": 10**30}, f"size must lie between 1 and 9, not {10**30}."),
        ({"weight": 0}, "weight must be at least 0.5, not 0.0."),
        ({"price": 0}, "A dish has a price, not 0.0."),
        ({"names": {"one": 1, "two": 2, "three": 3}}, "names must lie between 0 and 1, not 2.0."),
        ({"names": {"one": 2, "two": None, "three": "many"}}, "names must lie between 0 and 1, not 2.0."),
        ({"dishes": ["soup", ""]}, "dishes have names."),
        ({"size": "five"}, "size must be a whole number, not a text."),
        ({"size": 5.5}, "size must be a whole number, not a number with a fraction."),
        ({"size": "10.0"}, "size must lie between 1 and 9, not 10."),
        ({"names": {"one": "1", "two": "2"}}, "names must lie between 0 and 1, not 2.0."),
        ({"size": None, "weight": 0.5, "price": -1, "unknown": 0}, "A dish has a price, not -1.0."),
    ],
)
def test_a_bound_is_told_in_a_sentence(fields: dict[str, Any], message: str) -> None:
    assert told(Order, **fields)[0] == message


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"temperature": -0.5}, "temperature must be at least 0, not -0.5."),
        ({"repetition_penalty": 0}, "repetition_penalty must lie between 0.01 and 100, not 0.0."),
        ({"n": 65}, "n must lie between 1 and 64, not 65."),
        ({"min_tokens": -1}, "min_tokens must be at least 0, not -1."),
        ({"logit_bias": {"1": 5, "2": -101}}, "logit_bias must lie between -100 and 100, not -101.0."),
        ({"logprobs": 21}, "logprobs must lie between 0 and 20, not 21."),
        ({"stop": ["x"] * 257}, STOP),
        ({"stop": ["x", "y" * 513]}, STOP),
        ({"stop": "y" * 513}, STOP),
        ({"stop_token_ids": [1] * 257}, "stop_token_ids takes up to 256 tokens."),
        ({"prompt": ""}, PROMPT),
        ({"prompt": []}, PROMPT),
        ({"prompt": ["a", ""]}, PROMPT),
        ({"prompt": [[1], []]}, PROMPT),
    ],
)
def test_the_bounds_of_a_completion(fields: dict[str, Any], message: str) -> None:
    [field] = fields
    assert told(CompletionRequest, **{"model": "m", "prompt": "hi", **fields}) == (message, field)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"messages": []}, "messages must hold at least one message."),
        ({"logprobs": True, "top_logprobs": -1}, "top_logprobs must lie between 0 and 20, not -1."),
    ],
)
def test_the_bounds_of_a_chat(fields: dict[str, Any], message: str) -> None:
    messages = [{"role": "user", "content": "hi"}]
    assert told(ChatRequest, **{"model": "m", "messages": messages, **fields}) == (message, [*fields][-1])


@pytest.mark.parametrize("field", ["prompt", "tokens"])
def test_hidden_states_are_those_of_something(field: str) -> None:
    empty: Any = "" if field == "prompt" else []
    assert told(HiddenStatesRequest, model="m", layer=0, **{field: empty}) == ("The prompt is empty.", field)


def test_a_prompt_of_tokens_may_have_more_of_them_than_a_request_may_have_prompts() -> None:
    body = json.dumps({"model": "m", "prompt": [1] * 1000}).encode()
    assert parse(body, CompletionRequest).prompts == [[1] * 1000]


@pytest.mark.parametrize("after", [{}, {"x": "y"}])
def test_the_one_wrong_number_among_many_is_named(after: dict[str, str]) -> None:
    biases = {**{str(token): 1 for token in range(2500)}, "wrong": 1000, **after}
    with pytest.raises(RequestError, match=r"^logit_bias must lie between -100 and 100, not 1000\.0\.$"):
        parse(json.dumps({"model": "m", "messages": [{}], "logit_bias": biases}).encode(), ChatRequest)


@pytest.mark.parametrize("value", ["{}", "[]", '{"":[]}', '{"[[":{"\\\\":0}}'])
def test_a_body_has_only_so_many_lists_and_objects(value: str) -> None:
    opening = sum(map(json.dumps(json.loads(value)).replace("[[", "").count, "[{"))

    def body(count: int) -> bytes:
        return ('{"model": "m", "chat_template_kwargs": {"x": [' + ",".join([value] * count) + "]}}").encode()

    with pytest.raises(RequestError, match=r"^messages is missing\.$"):
        parse(body(65_533 // opening), ChatRequest)
    with pytest.raises(RequestError, match=r"^The request has more than 65536 lists and objects\.$") as caught:
        parse(body(65_533 // opening + 1), ChatRequest)
    assert caught.value.status == 400


@pytest.mark.parametrize("text", ["[{" * 100_000, '\\"[' * 100_000, "\\" * 3 + '{"' * 100_000, "[\\" * 100_000])
def test_the_brackets_of_a_text_are_not_counted(text: str) -> None:
    parsed = parse(json.dumps({"model": "m", "prompt": text}).encode(), CompletionRequest)
    assert parsed.prompts == [text]


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (b"", "The request has no body."),
        (b" \r\n", "The request has no body."),
        (b"[]", "The request's body must be a JSON object."),
        (b"\xff", "The request's body must be UTF-8."),
        ('{"model": "é"}'.encode("latin-1"), "The request's body must be UTF-8."),
        (b'{"model": "\xed\xa0\xbd"}', "The request's body must be UTF-8."),
        ('{"model": "m"}'.encode("utf-16"), "The request's body must be UTF-8."),
        ('{"model": "m"}'.encode("utf-16-le"), "The request's body must be UTF-8."),
        ('{"model": "m"}'.encode("utf-16-be"), "The request's body must be UTF-8."),
        (b'{"model": "m"', "The request's body is not valid JSON: Input data was truncated."),
        (b'{"model": "\\ud83d', "The request's body is not valid JSON: Input data was truncated."),
        (b'{"model": "m", "messages": null}', "messages is missing."),
    ],
)
def test_a_body_that_cannot_be_read(body: bytes, sentence: str) -> None:
    with pytest.raises(RequestError) as caught:
        parse(body, ChatRequest)
    assert (str(caught.value), caught.value.status) == (sentence, 400)


@pytest.mark.parametrize(
    ("escaped", "text"),
    [
        (r"\ud83d", "\ufffd"),
        (r"\uDE00", "\ufffd"),
        (r"cut \ud83d\u0041", "cut \ufffdA"),
        (r"\ud83d\ud83d\ude00\ude00", "\ufffd😀\ufffd"),
        (r"\ude00\ud83d", "\ufffd\ufffd"),
        (r"\\ud83d \\\ud83d \\\\ud83d\ude00", "\\ud83d \\\ufffd \\\\ud83d\ufffd"),
        (r"\ud83d\\ude00", "\ufffd\\ude00"),
        (r"\ud83d\n\"", '\ufffd\n"'),
    ],
)
def test_half_of_a_character_is_read_as_one_that_is_not_known(escaped: str, text: str) -> None:
    body = f'{{"model": "m", "prompt": "{escaped}", "x": "{escaped}"}}'.encode()
    assert parse(body, CompletionRequest).prompts == [text]


@given(text=st.text(st.sampled_from('\\ud83e0\ud83d\ude00"x'), max_size=12))
def test_halves_are_read_as_the_decoder_of_utf_16_reads_them(text: str) -> None:
    read = parse(json.dumps({"model": "m", "prompt": f"a{text}"}).encode(), CompletionRequest)
    assert read.prompts == [f"a{text}".encode("utf-16", "surrogatepass").decode("utf-16", "replace")]
