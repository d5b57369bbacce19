"""A node dies in the middle of an answer: the answer goes on, and not a byte of it changes."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterable, Iterator
from functools import partial

import httpx
import openai
import pytest

from kit.processes import LOCAL, ONE_THREAD, complaint, potluck
from kit.proxy import Proxy
from kit.unsplit import memory_for
from kit.waiting import eventually
from potluck.local import HANG_S, LocalSwarm, Process
from potluck.node.agent import _LEAVE_S
from potluck.types import Span

TOKENS = 1500
PROMPT = "the potluck"


def ask(client: openai.OpenAI) -> Iterator[str]:
    """A greedy answer of some seconds, piece by piece."""
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
    assert chunk.usage is not None
    assert chunk.usage.completion_tokens == TOKENS


@pytest.fixture(scope="module")
def undisturbed(tiny_swarm, client_of) -> str:
    return "".join(ask(client_of(tiny_swarm)))


def begun(answer: Iterator[str]) -> str:
    return "".join(next(answer) for _ in range(20))


def kill(node: Process) -> None:
    node.popen.kill()
    assert node.wait() == -signal.SIGKILL


def test_another_node_of_the_span_takes_over(twins, client_of, undisturbed):
    swarm, nodes, line = twins
    answer = ask(client_of(swarm))
    head = begun(answer)
    with line.crawling():
        victim = serving(swarm, nodes)
        kill(nodes[victim])
    assert head + "".join(answer) == undisturbed
    assert state(swarm, victim) == "gone"
    swarm.coordinator.wait_for("Others take over its sessions")


def test_over_rounded_rows_the_answer_that_is_taken_over_is_the_same_too(tiny, client_of):
    """The first half sends the rows that the lost node had once more, from its journal, to the same bytes."""
    with LocalSwarm(tiny, [Span(0, 2)], serve=[*LOCAL, "--audit", "0", "--rows", "q8"], join=ONE_THREAD) as swarm:
        nodes = {name: swarm.add_node("3-5", "--name", name) for name in ("castor", "pollux")}
        swarm.wait_covered()
        expected = "".join(ask(client_of(swarm)))
        answer = ask(client_of(swarm))
        head = begun(answer)
        kill(nodes[serving(swarm, nodes)])
        assert head + "".join(answer) == expected
        swarm.coordinator.wait_for("Others take over its sessions")


@pytest.fixture
def twins(tiny) -> Iterator[tuple[LocalSwarm, dict[str, Process], Proxy]]:
    """A swarm with two nodes for its second half, these by name, and the line of its first half."""
    # Without audits: the tests look at what each node computes.
    with (
        LocalSwarm(tiny, [], serve=[*LOCAL, "--audit", "0"], join=ONE_THREAD) as swarm,
        Proxy(swarm.url).running() as line,
    ):
        swarm.add_node("0-2", url=line.url)
        nodes = {name: swarm.add_node("3-5", "--name", name) for name in ("castor", "pollux")}
        swarm.wait_covered()
        yield swarm, nodes, line


def serving(swarm: LocalSwarm, names: Iterable[str]) -> str:
    [name] = [node["name"] for node in swarm.status()["nodes"] if node["sessions"] and node["name"] in names]
    return name


def serves_again(node: Process) -> bool:
    return sum("Serving layers" in line for line in node.lines) == 2


def longest_step(swarm: LocalSwarm, name: str) -> int:
    """Rows of the longest step that the node has computed."""
    timeline = httpx.get(f"{swarm.url}/trace", timeout=HANG_S).json()["traceEvents"]
    names = {event["pid"]: event["args"]["name"] for event in timeline if event["name"] == "process_name"}
    computed = [event for event in timeline if event["name"] == "compute"]
    return max(event["args"]["rows"] for event in computed if names[event["pid"]].partition(":")[0] == name)


def state(swarm: LocalSwarm, name: str) -> str:
    return next((node["state"] for node in swarm.status()["nodes"] if node["name"] == name), "gone")


def test_a_frozen_node_is_passed_over_and_used_again(twins, client_of, undisturbed):
    swarm, nodes, line = twins
    answer = ask(client_of(swarm))
    head = begun(answer)
    with line.crawling():
        victim = serving(swarm, nodes)
        nodes[victim].popen.send_signal(signal.SIGSTOP)
    assert head + "".join(answer) == undisturbed
    assert state(swarm, victim) == "stalled"
    nodes[victim].popen.send_signal(signal.SIGCONT)
    nodes[victim].wait_for("The coordinator passes this node over")
    nodes[victim].wait_for("The coordinator uses this node again")
    assert state(swarm, victim) == "ready"
    swarm.wait_until(lambda status: all(node["held"] == node["parked"] for node in status["nodes"]))


@pytest.mark.parametrize("command", [True, False])
def test_a_node_that_leaves_hands_its_answers_over_first(twins, client_of, undisturbed, command):
    swarm, nodes, line = twins
    answer = ask(client_of(swarm))
    head = begun(answer)
    with line.crawling():
        leaver = serving(swarm, nodes)
        if command:
            assert potluck("leave", leaver).stdout == f"{leaver} leaves.\n"
        else:
            nodes[leaver].interrupt()
        assert nodes[leaver].wait() == 0
        heir = serving(swarm, nodes)
    assert heir != leaver
    assert head + "".join(answer) == undisturbed
    assert longest_step(swarm, heir) == 1  # its keys and values have moved: the heir computed no prompt
    swarm.coordinator.interrupt()
    assert not [line for line in swarm.coordinator.lines if "Others take over" in line]  # nothing was lost


def test_a_second_signal_goes_at_once(twins, client_of):
    swarm, _, line = twins
    answer = ask(client_of(swarm))
    begun(answer)
    with line.crawling():
        leaver, began = swarm.nodes[0], time.monotonic()  # nobody else has its layers
        leaver.interrupt()
        leaver.wait_for("Leaving")
        leaver.interrupt()
        assert leaver.wait() == 0
        assert time.monotonic() - began < _LEAVE_S


def test_nobody_leaves_where_nobody_is():
    assert complaint("leave", "no such node") == "No node named 'no such node' runs here."


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


def test_a_spare_node_moves_to_lost_layers_and_the_answer_goes_on(tiny, client_of, undisturbed):
    """Both nodes of the first half could have the answer's first stage: it is handed over, or given up, in time."""
    half = max(memory_for(tiny, span) for span in (Span(0, 2), Span(3, 5)))
    with (
        LocalSwarm(tiny, [], serve=LOCAL, join=ONE_THREAD) as swarm,
        Proxy(swarm.url).running() as line,
    ):
        spare = swarm.add_node("--memory", str(half), "--name", "spare")
        spare.wait_for("Serving layers 0-2")
        last = swarm.add_node("3-5", url=line.url)
        swarm.wait_covered()
        answer = ask(client_of(swarm))
        head = begun(answer)
        with line.crawling():
            swarm.add_node("0-2", "--name", "fixed")
            assert swarm.wait_covered()["served"] == [2, 2, 2, 1, 1, 1]
            kill(last)
        spare.wait_for("it moves there")
        assert head + "".join(answer) == undisturbed
        assert swarm.status()["served"] == [1] * 6
        assert spare.popen.poll() is None


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
                eventually(partial(serves_again, node))
            assert "".join(ask(client_of(swarm))) == undisturbed
            assert all(sum("Loading layers" in line for line in node.lines) == 1 for node in swarm.nodes)
