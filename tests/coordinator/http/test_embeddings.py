import asyncio
import base64
import gc
from typing import Any, cast

import httpx
import numpy as np
import pytest
from starlette.applications import Starlette

from kit.runner import run
from kit.toy_swarm import TOKENIZER
from potluck.coordinator.generation.hidden_states import HiddenStates
from potluck.coordinator.http import embeddings
from potluck.coordinator.http.embeddings import Embeddings, EmbeddingsRequest, embedding_layer
from potluck.coordinator.http.errors import error_response
from potluck.coordinator.http.models import Models
from potluck.coordinator.http.routes import routes_of
from potluck.coordinator.http.service import Service
from potluck.coordinator.sessions.claim import Claim, Rank
from potluck.coordinator.text.encoder import PlainEncoder
from potluck.coordinator.text.template import ChatTemplate
from potluck.errors import PotluckError, Unavailable
from potluck.types import ANY_NUMBER
from potluck.wire.rows import Ids

CONTEXT = 20


class Sums:
    """Stands in for `HiddenStates`: the sum of a text's rows tells its tokens. The first input takes longest."""

    width = 4

    def __init__(self, layers: int = 30, fails_at: int = ANY_NUMBER) -> None:
        self.layers = layers
        self.fails_at = fails_at
        self.asked: list[tuple[list[int], int, Claim]] = []
        self.under_way = self.most = 0

    async def sum(self, tokens: Ids, layer: int, claim: Claim) -> Any:
        self.asked.append((tokens.tolist(), layer, claim))
        number = len(self.asked)
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        try:
            for _ in range(10 if number == 1 else number % 3):
                await asyncio.sleep(0)
            if number == self.fails_at:
                raise Unavailable("No node serves layers 3 now.")
            return vector(tokens.tolist())
        finally:
            self.under_way -= 1


def vector(tokens: list[int]) -> Any:
    return np.array([3.0, 4.0 * len(tokens), 0.0, float(sum(tokens))])


def unit(values: Any) -> list[float]:
    return [float(one) for one in (values / np.linalg.norm(values)).astype(np.float32)]


def ask(hidden: Sums, **fields: Any) -> httpx.Response:
    async def unused(_: object) -> Any:
        raise AssertionError

    encoder = PlainEncoder(TOKENIZER, ChatTemplate(None))
    service = Service(unused, TOKENIZER, encoder, "toy", CONTEXT, 1)  # type: ignore[arg-type]
    endpoint = Embeddings(Models(service), {"toy": cast(HiddenStates, hidden)})
    app = Starlette(routes=routes_of(endpoint), exception_handlers={PotluckError: error_response})

    async def test() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://potluck") as http:
            return await http.post("/v1/embeddings", json=fields)

    return run(test())


@pytest.mark.parametrize(
    ("given", "inputs"),
    [
        ("abc", [[0, 1, 2]]),
        (["abc", "b"], [[0, 1, 2], [1]]),
        ([7, 8], [[7, 8]]),
        ([[7, 8], [9]], [[7, 8], [9]]),
        (["a", [9]], [[0], [9]]),
    ],
)
def test_texts_and_tokens_become_vectors_of_length_one(given: object, inputs: list[list[int]]) -> None:
    hidden = Sums()
    reply = ask(hidden, model="toy", input=given, user="anna")
    assert reply.status_code == 200
    data = [{"object": "embedding", "index": n, "embedding": unit(vector(one))} for n, one in enumerate(inputs)]
    tokens = sum(map(len, inputs))
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    assert reply.json() == {"object": "list", "data": data, "model": "toy", "usage": usage}
    assert [layer for _, layer, _ in hidden.asked] == [22] * len(inputs)


def test_many_inputs_keep_their_order_and_only_a_few_are_computed_at_once() -> None:
    hidden = Sums()
    inputs = [[number % 26] for number in range(40)]
    data = ask(hidden, input=inputs).json()["data"]
    assert [one["embedding"] for one in data] == [unit(vector(one)) for one in inputs]
    assert 1 < hidden.most <= embeddings._BESIDE + 1


@pytest.mark.parametrize("dimensions", [1, 2, 4, None])
def test_base64_says_the_same_numbers(dimensions: int | None) -> None:
    ways = [
        ask(Sums(), input="abc", encoding_format=form, dimensions=dimensions).json()["data"][0]["embedding"]
        for form in ("float", "base64")
    ]
    assert np.frombuffer(base64.b64decode(ways[1]), "<f4").tolist() == ways[0]
    assert ways[0] == unit(vector([0, 1, 2])[:dimensions])


def test_a_vector_without_a_direction_is_told_as_it_is() -> None:
    class Nothing(Sums):
        async def sum(self, tokens: Ids, layer: int, claim: Claim) -> Any:
            return np.zeros(4)

    assert ask(Nothing(), input="a").json()["data"][0]["embedding"] == [0.0] * 4


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({}, "input"),
        ({"input": ""}, "input"),
        ({"input": []}, "input"),
        ({"input": ["a", ""]}, "input"),
        ({"input": ["a", 1]}, "input"),
        ({"input": [[]]}, "input"),
        ({"input": None}, "input"),
        ({"input": [1, "a"]}, "input"),
        ({"input": ["a"] * 2049}, "input"),
        ({"input": [27]}, "input"),
        ({"input": [-1]}, "input"),
        ({"input": "a" * (CONTEXT + 1)}, "input"),
        ({"input": [1] * (CONTEXT + 1)}, "input"),
        ({"input": "a", "dimensions": 0}, "dimensions"),
        ({"input": "a", "dimensions": 5}, "dimensions"),
        ({"input": "a", "encoding_format": "hex"}, "encoding_format"),
        ({"input": "a", "truncate_prompt_tokens": 4}, "truncate_prompt_tokens"),
    ],
)
def test_what_is_no_input_is_refused_before_anything_is_computed(fields: dict[str, Any], param: str) -> None:
    hidden = Sums()
    reply = ask(hidden, model="toy", **fields)
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, param)
    assert not hidden.asked


def test_nothing_of_a_body_is_held_while_its_vectors_are_computed() -> None:
    held: list[EmbeddingsRequest] = []

    class Looking(Sums):
        async def sum(self, tokens: Ids, layer: int, claim: Claim) -> Any:
            gc.collect()
            held.extend(one for one in gc.get_objects() if isinstance(one, EmbeddingsRequest))
            return await super().sum(tokens, layer, claim)

    hidden = Looking()
    assert ask(hidden, input=["ab", [1]], dimensions=2).status_code == 200
    assert len(hidden.asked) == 2
    assert held == []


def test_another_model_is_not_found() -> None:
    reply = ask(Sums(), model="text-embedding-3-small", input="a")
    assert (reply.status_code, reply.json()["error"]["code"]) == (404, "model_not_found")


def test_an_answer_that_would_be_too_large_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embeddings, "_MOST_VALUES", 8)
    assert ask(Sums(), input=["a", "b"]).status_code == 200
    assert ask(Sums(), input=["a", "b", "c"], dimensions=2).status_code == 200
    error = ask(Sums(), input=["a", "b", "c"]).json()["error"]
    assert error["message"] == "An answer has at most 2 vectors of this size: send fewer inputs."


def test_what_the_swarm_cannot_do_now_ends_all_inputs() -> None:
    hidden = Sums(fails_at=2)
    reply = ask(hidden, input=[[1]] * 20)
    assert (reply.status_code, reply.json()["error"]["message"]) == (503, "No node serves layers 3 now.")
    assert hidden.under_way == 0
    assert len(hidden.asked) < 20


def test_nobody_waits_for_a_batch() -> None:
    hidden = Sums()
    ask(hidden, input="a", priority="batch")
    assert [claim.rank for _, _, claim in hidden.asked] == [Rank.BATCH]


@pytest.mark.parametrize(("layers", "layer"), [(2, 0), (3, 1), (4, 2), (6, 4), (30, 22), (80, 60)])
def test_the_rows_come_from_behind_three_quarters_of_the_layers(layers: int, layer: int) -> None:
    assert embedding_layer(layers) == layer


def test_a_model_of_one_layer_has_no_rows_to_give() -> None:
    reply = ask(Sums(layers=1), input="a")
    assert (reply.status_code, "one layer" in reply.json()["error"]["message"]) == (400, True)
