"""Two models in one process: each answers as if it were alone, and neither notices what happens to the other."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from kit.processes import LOCAL, ONE_THREAD, complaint, potluck
from kit.tiny_gguf import EXACT, write_tiny_gguf
from kit.waiting import eventually
from potluck.local import HANG_S, LocalSwarm

PROMPTS = ("Once upon a time", "The capital of France", "def f(n):")
OPTIONS: tuple[dict[str, Any], ...] = (
    {"temperature": 0, "logprobs": 2},
    {"temperature": 0.9, "seed": 7, "logprobs": 2},
    {"temperature": 0.7, "seed": 3, "presence_penalty": 0.5, "extra_body": {"min_tokens": 8}},
)
Answer = tuple[str, Any]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two models of different sizes, by their names."""
    folder = tmp_path_factory.mktemp("models")
    return {
        "one": write_tiny_gguf(folder / "one.gguf", tokenizer="bpe", dtype=EXACT, seed=1),
        "two": write_tiny_gguf(folder / "two.gguf", "llama", tokenizer="bpe", layers=4, dtype=EXACT, seed=2),
    }


@pytest.fixture(scope="module")
def alone(models: dict[str, Path]) -> dict[str, list[Answer]]:
    """The answers of each model in a swarm of its own."""
    answers = {}
    for name, path in models.items():
        with LocalSwarm(path, [], serve=LOCAL, join=ONE_THREAD) as swarm:
            swarm.add_node()
            swarm.wait_covered()
            answers[name] = [answer for _, answer in asked(swarm.url, [name])]
    return answers


@pytest.fixture
def both(models: dict[str, Path]) -> Iterator[LocalSwarm]:
    """Both models behind one address: the first on two nodes, the second on one that chose by itself."""
    with LocalSwarm(models["one"], [], serve=[str(models["two"]), *LOCAL], join=ONE_THREAD) as swarm:
        swarm.add_node("0-2", "--model", "one", "--name", "anna")
        swarm.add_node("3-5", "--model", "one", "--name", "ben")
        eventually(lambda: covered(swarm) == [True, False])
        swarm.add_node("--name", "carla")
        eventually(lambda: covered(swarm) == [True, True])
        yield swarm


def covered(swarm: LocalSwarm) -> list[bool]:
    return [status["covered"] for status in swarm.status()["models"]]


def nodes(swarm: LocalSwarm) -> list[list[str]]:
    """The names of the nodes of each model."""
    return [[node["name"] for node in status["nodes"]] for status in swarm.status()["models"]]


def asked(url: str, names: list[str]) -> list[tuple[str, Answer]]:
    """What the official client gets for all requests at once, to these models in turns."""
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=HANG_S) as client:

        def ask(name: str, prompt: str, options: dict[str, Any]) -> tuple[str, Answer]:
            reply = client.completions.create(model=name, prompt=prompt, max_tokens=24, **options)
            assert reply.model == name
            choice = reply.choices[0]
            return name, (choice.text, choice.logprobs and choice.logprobs.token_logprobs)

        wishes = [(name, prompt, options) for prompt in PROMPTS for options in OPTIONS for name in names]
        with ThreadPoolExecutor(len(wishes)) as threads:
            return list(threads.map(lambda wish: ask(*wish), wishes))


def test_interleaved_requests_are_answered_as_by_two_swarms(both: LocalSwarm, alone: dict[str, list[Answer]]) -> None:
    told = asked(both.url, ["one", "two"])
    for name, expected in alone.items():
        assert [answer for own, answer in told if own == name] == expected
    assert alone["one"] != alone["two"]
    assert nodes(both) == [["anna", "ben"], ["carla"]]


def test_a_node_of_one_dies_and_the_other_notices_nothing(both: LocalSwarm, alone: dict[str, list[Answer]]) -> None:
    with ThreadPoolExecutor(1) as threads:
        asking = threads.submit(asked, both.url, ["one"])
        eventually(lambda: both.status()["models"][0]["streams"] > 0 or asking.done())
        both.nodes[2].popen.kill()
        assert [answer for _, answer in asking.result()] == alone["one"]
    eventually(lambda: covered(both) == [True, False])
    one, two = both.status()["models"]
    assert [node["state"] for node in one["nodes"]] == ["ready", "ready"]
    assert two["nodes"] == []
    both.nodes.pop()
    both.add_node("--name", "dora")  # which goes where it is needed
    eventually(lambda: covered(both) == [True, True])
    assert [answer for _, answer in asked(both.url, ["two"])] == alone["two"]


def test_every_model_is_listed_and_one_must_be_named(both: LocalSwarm, tmp_path: Path) -> None:
    with httpx.Client(base_url=both.url, timeout=HANG_S) as http:
        assert [each["id"] for each in http.get("/v1/models").json()["data"]] == ["one", "two"]
        told = http.post("/v1/completions", json={"prompt": "a", "max_tokens": 1})
        assert (told.status_code, "'one', 'two'" in told.text) == (400, True)
        assert http.get("/status", params={"model": "two"}).json()["model"] == "two"
    traced = potluck("trace", both.url, tmp_path / "two.json", "--prompt", "a", "--tokens", 2, "--model", "two")
    assert "Open " in traced.stdout, traced.stderr
    served = {
        event["args"]["name"]
        for event in json.loads((tmp_path / "two.json").read_text())["traceEvents"]
        if event["name"] == "process_name"
    }
    assert any("carla" in name for name in served)
    assert not any("anna" in name for name in served)
    shown = potluck("status", both.url)
    assert shown.returncode == 0
    assert "one" in shown.stdout
    assert "two" in shown.stdout
    refused = complaint("join", both.url, "--model", "three", *ONE_THREAD, "--on-battery")
    assert refused == "The model 'three' is not served here; 'one', 'two' are."
    assert "Name the model whose layers 0-2 are meant" in complaint("join", both.url, "0-2", "--on-battery")


def test_a_node_comes_back_to_the_model_whose_layers_it_holds(models: dict[str, Path]) -> None:
    with ExitStack() as stack:
        swarm = stack.enter_context(LocalSwarm(models["one"], [], serve=[str(models["two"]), *LOCAL], join=ONE_THREAD))
        node = swarm.add_node("--model", "two", "--name", "anna")
        eventually(lambda: covered(swarm) == [False, True])
        port = swarm.url.rpartition(":")[2]
        swarm.coordinator.stop()
        again = [str(models["one"]), str(models["two"]), "--port", port, *LOCAL]
        swarm.coordinator = swarm._start("serve", *again)
        swarm.coordinator.wait_for("Serving two")
        eventually(lambda: covered(swarm) == [False, True])
        assert sum("Loading layers" in line for line in node.lines) == 1


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["one", "one"], "Two models have the name one: give each a name of its own with --name."),
        (["one", "one", "--name", "a", "--name", "b"], "b is named twice: leave one out, and give it further names"),
        (["one", "two", "--name", "x", "--name", "x"], "Several models have one --name each: give 2 names"),
        (["one", "two", "--name", "x"], "Several models have one --name each: give 2 names in their order, or none."),
        (["one", "two", "--guesser", "one"], "--guesser guesses for one model: let nodes guess for several, with"),
        (["one", "two", "--revision", "x"], "--revision is that of one model: serve several with names such as"),
    ],
)
def test_what_cannot_be_for_several_is_refused(options: list[str], told: str, models: dict[str, Path]) -> None:
    words = [str(models.get(option, option)) for option in options]
    assert complaint("serve", *words, "--port", 0, *LOCAL).startswith(told)


def test_a_node_that_one_can_spare_goes_where_it_is_needed(
    models: dict[str, Path], alone: dict[str, list[Answer]]
) -> None:
    with LocalSwarm(models["one"], [], serve=[str(models["two"]), *LOCAL], join=ONE_THREAD) as swarm:
        swarm.add_node("--model", "two", "--name", "dora")
        eventually(lambda: covered(swarm) == [False, True])
        anna = swarm.add_node("--name", "anna")
        eventually(lambda: nodes(swarm) == [["anna"], ["dora"]] and covered(swarm) == [True, True])
        swarm.add_node("--model", "one", "--name", "ben")
        eventually(lambda: [node["state"] for node in swarm.status()["models"][0]["nodes"]] == ["ready", "ready"])
        swarm.nodes[0].popen.kill()
        with ThreadPoolExecutor(1) as threads:
            eventually(lambda: covered(swarm) == [True, False])
            asking = threads.submit(lambda: [asked(swarm.url, ["one"]) for _ in range(3)])
            anna.wait_for("Another model needs this node more: it moves there.")
            for told in asking.result():
                assert [answer for _, answer in told] == alone["one"]
        eventually(lambda: nodes(swarm) == [["ben"], ["anna"]] and covered(swarm) == [True, True])
        assert [answer for _, answer in asked(swarm.url, ["two"])] == alone["two"]
        assert [answer for _, answer in asked(swarm.url, ["one"])] == alone["one"]
