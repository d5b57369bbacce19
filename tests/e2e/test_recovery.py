"""A node dies in the middle of an answer: the answer goes on, and not a byte of it changes."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import openai
import pytest

from e2e.helpers import LOCAL, ONE_THREAD, eventually
from potluck.local import LocalSwarm, Process
from potluck.types import Span

TOKENS = 1500
PROMPT = "the potluck"


def ask(client: openai.OpenAI) -> Iterator[str]:
    """A greedy answer of about two seconds, piece by piece."""
    stream = client.completions.create(
        model="tiny",
        prompt=PROMPT,
        max_tokens=TOKENS,
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
        extra_body={"ignore_eos": True},
    )
    for chunk in stream:
        for choice in chunk.choices:
            yield choice.text
    assert chunk.usage.completion_tokens == TOKENS


@pytest.fixture(scope="module")
def undisturbed(tiny_swarm, client_of) -> str:
    return "".join(ask(client_of(tiny_swarm)))


def begun(answer: Iterator[str]) -> str:
    return "".join(next(answer) for _ in range(20))


def kill(node: Process) -> None:
    node.popen.kill()
    assert node.wait(10) == -signal.SIGKILL


def test_another_node_of_the_span_takes_over(tiny, client_of, undisturbed):
    with LocalSwarm(tiny, [Span(0, 2)], serve=LOCAL, join=ONE_THREAD) as swarm:
        twins = {name: swarm.add_node("3-5", "--name", name) for name in ("castor", "pollux")}
        swarm.wait_covered()
        answer = ask(client_of(swarm))
        head = begun(answer)
        [serving] = [node["name"] for node in swarm.status()["nodes"] if node["sessions"] and node["name"] in twins]
        kill(twins[serving])
        assert head + "".join(answer) == undisturbed
        [left] = [node["name"] for node in swarm.status()["nodes"] if node["name"] in twins]
        assert left != serving
        swarm.coordinator.wait_for("replayed on another route")


@pytest.mark.parametrize("span", ["0-2", "3-5"])
def test_an_answer_waits_for_a_new_node(tiny, client_of, undisturbed, span):
    with LocalSwarm(tiny, [Span(0, 2), Span(3, 5)], serve=LOCAL, join=ONE_THREAD) as swarm:
        swarm.wait_covered()
        answer = ask(client_of(swarm))
        head = begun(answer)
        kill(swarm.nodes[span == "3-5"])
        swarm.wait_until(lambda status: not status["covered"])
        swarm.add_node(span)
        assert head + "".join(answer) == undisturbed


def test_a_coordinator_that_comes_back_finds_its_nodes_again(tiny, client_of, undisturbed):
    with LocalSwarm(tiny, [Span(0, 2), Span(3, 5)], serve=LOCAL, join=ONE_THREAD) as swarm:
        swarm.wait_covered()
        port = swarm.url.rpartition(":")[2]
        kill(swarm.coordinator)
        for node in swarm.nodes:
            node.wait_for("trying again")
        with Process(["serve", str(tiny), "--port", port, *LOCAL]) as coordinator:
            coordinator.wait_for("http://")
            for node in swarm.nodes:
                eventually(lambda node=node: sum("Serving layers" in line for line in node.lines) == 2)
            assert "".join(ask(client_of(swarm))) == undisturbed
            assert all(sum("Loading layers" in line for line in node.lines) == 1 for node in swarm.nodes)
