"""What is guessed ahead over far links changes nothing but the time: two real swarms, one of which guesses."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from kit.processes import LOCAL, ONE_THREAD
from kit.proxy import Proxy
from potluck.local import HANG_S, LocalSwarm
from potluck.types import even_spans

DELAY_S = 0.02
"""How much later all frames arrive, so that guesses are fed many deep on any machine."""

CHAT = [{"role": "user", "content": "Write a short story about a dog that finds a bone. Say everything twice."}]
SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 12}, "legs": {"type": "integer"}, "kind": {"const": "dog"}},
    "required": ["name", "legs", "kind"],
    "additionalProperties": False,
}
TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {"type": "object", "properties": {"city": {"enum": ["Paris", "Rome"]}}, "required": ["city"]},
    },
}
KINDS: dict[str, dict[str, Any]] = {
    "greedy": {"logprobs": True, "top_logprobs": 3},
    "seeded": {"temperature": 1.0, "seed": 5, "logprobs": True, "top_logprobs": 2},
    "narrow": {"temperature": 0.8, "seed": 1, "top_p": 0.9, "top_k": 20, "min_p": 0.02},
    "penalties": {"frequency_penalty": 0.7, "presence_penalty": -0.5, "repetition_penalty": 0.9},
    "bias": {"logit_bias": {"28": 5, "198": -100}, "temperature": 0.5, "seed": 2},
    "schema": {"response_format": {"type": "json_schema", "json_schema": {"name": "dog", "schema": SCHEMA}}},
    "tools": {"tools": [TOOL], "tool_choice": "required"},
    "stops": {"stop": ["bone", "park"]},
    "choices": {"n": 3, "temperature": 1.0, "seed": 11},
    "long": {"min_tokens": 40, "stop": ["."]},
    "predicted": {"prediction": {"type": "content", "content": "Once upon a time there was a dog. " * 4}},
}


@pytest.fixture(scope="module")
def far(smollm2: Path) -> Iterator[LocalSwarm]:
    """SmolLM2 on three distant nodes, guessed by itself."""
    serve = [*LOCAL, "--guesser", str(smollm2)]
    with ExitStack() as stack:
        swarm = stack.enter_context(LocalSwarm(smollm2, [], serve=serve, join=ONE_THREAD))
        for span in even_spans(30, 3):
            proxy = stack.enter_context(Proxy(swarm.url, delay_s=DELAY_S).running())
            swarm.add_node(str(span), url=proxy.url)
        swarm.wait_covered()
        swarm.coordinator.wait_for("guesses how answers go on")
        yield swarm
        for node in swarm.nodes:
            node.stop()


def choices(swarm: LocalSwarm, kind: str) -> Any:
    body = {"messages": CHAT, "max_tokens": 48, "temperature": 0} | KINDS[kind]
    reply = httpx.post(f"{swarm.url}/v1/chat/completions", json=body, timeout=HANG_S).raise_for_status().json()
    for choice in reply["choices"]:
        for call in choice["message"].get("tool_calls") or []:
            del call["id"]  # a fresh one each time
    return reply["choices"]


def fed(swarm: LocalSwarm) -> dict[str, float]:
    """How many guesses were fed, by their source."""
    counts: dict[str, float] = {}
    for line in httpx.get(f"{swarm.url}/metrics", timeout=HANG_S).text.splitlines():
        if line.startswith("potluck_guesses_total{"):
            source = line.partition('source="')[2].partition('"')[0]
            counts[source] = counts.get(source, 0) + float(line.rpartition(" ")[2])
    return counts


def test_whoever_has_a_guess_guesses(far: LocalSwarm) -> None:
    """This comes first: on a slow machine guesses may rest after a while, because the small model takes its time."""
    choices(far, "schema")
    choices(far, "predicted")
    counts = fed(far)
    assert counts["grammar"] > 0
    assert counts["prediction"] > 0
    assert counts["model"] > 0


@pytest.mark.parametrize("kind", KINDS)
def test_an_answer_is_the_same_with_guesses_and_without(far: LocalSwarm, smol: LocalSwarm, kind: str) -> None:
    assert choices(far, kind) == choices(smol, kind)
