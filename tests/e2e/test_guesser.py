"""A small model guesses beside the coordinator: answers are the same as without it, and its death costs speed only."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from kit.processes import LOCAL, ONE_THREAD, complaint, potluck
from kit.tiny_gguf import write_tiny_gguf
from kit.unsplit import Unsplit
from kit.waiting import eventually
from potluck.local import HANG_S, LocalSwarm, Process
from potluck.types import even_spans

PROMPT = "Once upon a time there was a"
TOKENS = 40


@pytest.fixture(scope="module")
def guessed(smollm2: Path) -> Iterator[LocalSwarm]:
    """SmolLM2 on three nodes, guessed by itself."""
    serve = [*LOCAL, "--guesser", str(smollm2)]
    with LocalSwarm(smollm2, even_spans(30, 3), serve=serve, join=ONE_THREAD) as swarm:
        swarm.wait_covered()
        swarm.coordinator.wait_for("guesses how answers go on")
        yield swarm


def guesser(swarm: LocalSwarm) -> psutil.Process:
    """The process that guesses."""
    children = psutil.Process(swarm.coordinator.popen.pid).children()
    [one] = [child for child in children if "potluck.node.guesser" in child.cmdline()]
    return one


def body(swarm: LocalSwarm, **fields: object) -> dict[str, object]:
    model = swarm.status()["model"]
    return {"model": model, "prompt": PROMPT, "max_tokens": TOKENS, "ignore_eos": True, "temperature": 0} | fields


def answer(swarm: LocalSwarm, **fields: object) -> str:
    reply = httpx.post(f"{swarm.url}/v1/completions", json=body(swarm, **fields), timeout=HANG_S)
    text: str = reply.raise_for_status().json()["choices"][0]["text"]
    return text


def guesses(swarm: LocalSwarm, outcome: str) -> float:
    """How many of the small model's guesses had this outcome."""
    metrics = httpx.get(f"{swarm.url}/metrics", timeout=HANG_S).text.splitlines()
    lines = [line for line in metrics if line.startswith("potluck_guesses_total{")]
    return sum(float(line.rpartition(" ")[2]) for line in lines if 'source="model"' in line and outcome in line)


def test_every_guess_of_the_same_model_is_right(guessed: LocalSwarm, unsplit: Unsplit) -> None:
    prompt = unsplit.encode(PROMPT)
    expected = b"".join(map(unsplit.tokenizer.piece, unsplit.greedy(prompt, TOKENS, ignore_eos=True))).decode()

    def guesses_right() -> bool:
        assert answer(guessed) == expected
        return guesses(guessed, "right") > 0  # not at once where other programs keep the cores busy

    eventually(guesses_right)
    assert guesses(guessed, "wrong") == 0
    sampled = set[str]()

    def guesses_wrong() -> bool:
        sampled.add(answer(guessed, temperature=0.9, seed=7))
        return guesses(guessed, "wrong") > 0

    eventually(guesses_wrong)
    assert len(sampled) == 1


def test_when_it_is_killed_in_the_middle_the_answer_goes_on(guessed: LocalSwarm) -> None:
    expected, first = answer(guessed), guesser(guessed)
    pieces, killed = [], False
    stream = httpx.stream("POST", f"{guessed.url}/v1/completions", json=body(guessed, stream=True), timeout=HANG_S)
    with stream as reply:
        for line in reply.iter_lines():
            if line.startswith("data: {"):
                pieces.append(httpx.Response(200, text=line.removeprefix("data: ")).json())
            if len(pieces) > 5 and not killed:
                first.kill()
                killed = True
    assert killed
    assert "".join(piece["choices"][0]["text"] for piece in pieces if piece["choices"]) == expected
    assert "does not guess now" in guessed.coordinator.wait_for("does not guess now")
    before = guesses(guessed, "right")

    def guesses_again() -> bool:
        assert answer(guessed) == expected
        return guesses(guessed, "right") > before

    eventually(guesses_again)
    assert guesser(guessed).pid != first.pid


@pytest.mark.skipif(sys.platform == "win32", reason="Windows kills all the same.")
def test_it_ends_with_the_coordinator_however_that_ends(smollm2: Path) -> None:
    with LocalSwarm(smollm2, [], serve=[*LOCAL, "--guesser", str(smollm2)]) as swarm:
        swarm.coordinator.wait_for("guesses how answers go on")
        child = guesser(swarm)
        swarm.coordinator.popen.kill()
        eventually(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)


def test_another_vocabulary_is_refused_in_a_sentence(smollm2: Path, tmp_path: Path) -> None:
    other = write_tiny_gguf(tmp_path / "other.gguf", layers=1, tokenizer="bpe")
    told = complaint("serve", smollm2, "--port", 0, *LOCAL, "--guesser", other)
    assert told.startswith(
        "other cannot guess for SmolLM2-135M-Instruct.Q4_1, because their vocabularies differ: token "
    )


def test_a_guesser_that_there_is_not_is_refused_in_a_sentence(smollm2: Path) -> None:
    told = complaint("serve", smollm2, "--port", 0, *LOCAL, "--guesser", "no-such-model.gguf")
    assert "no-such-model.gguf" in told


@pytest.fixture
def plain(smollm2: Path) -> Iterator[LocalSwarm]:
    """SmolLM2 on two nodes, with nothing beside the coordinator that guesses."""
    with LocalSwarm(smollm2, even_spans(30, 2), serve=LOCAL, join=ONE_THREAD) as swarm:
        swarm.wait_covered()
        yield swarm


def guessing_node(swarm: LocalSwarm, model: Path, name: str) -> Process:
    return Process(["join", swarm.url, "--guesser", str(model), "--name", name, *ONE_THREAD])


def test_a_node_guesses_and_its_death_costs_speed_only(plain: LocalSwarm, smollm2: Path) -> None:
    expected = answer(plain)
    assert guesses(plain, "right") == 0
    with guessing_node(plain, smollm2, "zoe") as node:
        node.wait_for("Guessing with SmolLM2-135M-Instruct.Q4_1 for SmolLM2-135M-Instruct.Q4_1")
        eventually(lambda: plain.status()["guesses"]["models"] == ["SmolLM2-135M-Instruct.Q4_1"])

        def guesses_right() -> bool:
            assert answer(plain) == expected
            return guesses(plain, "right") > 0

        eventually(guesses_right)
        assert guesses(plain, "wrong") == 0
        [child] = psutil.Process(node.popen.pid).children()
        node.popen.kill()
        node.wait()
        assert answer(plain) == expected
        if sys.platform != "win32":  # which does not end a child with its parent
            eventually(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)
    assert [node["state"] for node in plain.status()["nodes"]] == ["ready", "ready"]
    before = guesses(plain, "right")
    with guessing_node(plain, smollm2, "yan") as node:
        node.wait_for("Guessing with")
        eventually(lambda: answer(plain) == expected and guesses(plain, "right") > before)
        node.interrupt()
        assert node.wait() == 0


def test_a_guessing_node_comes_back_when_its_model_or_its_coordinator_was_gone(tiny: Path) -> None:
    with LocalSwarm(tiny, [], serve=LOCAL) as swarm, guessing_node(swarm, tiny, "zoe") as node:
        node.wait_for("Guessing with")
        [child] = psutil.Process(node.popen.pid).children()
        child.kill()
        node.wait_for("The small model has stopped guessing (its process has ended); trying again in")
        port = swarm.url.rpartition(":")[2]
        eventually(lambda: sum("Guessing with" in line for line in node.lines) == 2)
        assert swarm.coordinator.stop() == 0
        with Process(["serve", str(tiny), "--port", port, *LOCAL]):
            eventually(lambda: sum("Guessing with" in line for line in node.lines) == 3)


def test_a_guessing_node_pauses_and_leaves_as_its_owner_orders(tiny: Path) -> None:
    with LocalSwarm(tiny, [], serve=LOCAL) as swarm, guessing_node(swarm, tiny, "guessing-zoe") as node:
        node.wait_for("Guessing with")
        assert potluck("node", "pause", "guessing-zoe").returncode == 0
        node.wait_for("Pausing: ")
        eventually(lambda: psutil.Process(node.popen.pid).children() == [])
        assert potluck("node", "resume", "guessing-zoe").returncode == 0
        eventually(lambda: sum("Guessing with" in line for line in node.lines) == 2)
        assert potluck("leave", "guessing-zoe").returncode == 0
        assert node.wait() == 0


def test_a_node_may_ask_first_whether_its_model_could_guess(tiny: Path, smollm2: Path) -> None:
    with LocalSwarm(tiny, [], serve=LOCAL) as swarm:
        done = potluck("join", swarm.url, "--guesser", tiny, "--dry-run")
        assert "can guess for" in done.stdout
        assert "the swarm is unchanged" in done.stdout
        told = complaint("join", swarm.url, "--guesser", smollm2, "--dry-run")
        assert "their vocabularies differ: token" in told


@pytest.mark.parametrize("options", [["0-3"], ["--memory", "1G"], ["--model", "x.gguf"], ["--no-gpu", "--idle-only"]])
def test_what_is_for_layers_is_refused(options: list[str], tiny: Path) -> None:
    told = complaint("join", "http://127.0.0.1:1", *options, "--guesser", tiny)
    assert told.startswith("A node with --guesser serves no layers, so it does not take ")
    assert all(option in told for option in options if option.startswith("--"))


def test_in_an_open_swarm_the_owner_trusts_a_node_before_it_guesses(start, tiny: Path) -> None:
    swarm = start("--open")
    words = ["join", swarm.url, "--guesser", tiny, "--name", "zoe"]
    told = complaint(*words)
    found = re.search(r"potluck node trust URL ([0-9a-f]{16})", told)
    assert found is not None
    swarm.run("node", "trust", swarm.url, found[1])
    with Process([*map(str, words), *ONE_THREAD]) as node:
        node.wait_for("Guessing with tiny for tiny")
        swarm.run("node", "trust", swarm.url, found[1], "--off")
        node.wait_for("The swarm's owner does not trust this node any more); trying again in")
        assert node.wait() != 0
