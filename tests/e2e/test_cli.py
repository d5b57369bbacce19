"""The commands of a person: status, chat, demo; and Ctrl-C ends each of them cleanly."""

from __future__ import annotations

import json
import re
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil
import pytest

from kit.processes import LOCAL, ONE_THREAD, POTLUCK, complaint, potluck, speaking
from kit.tiny_hf import write_tiny_hf
from kit.waiting import eventually
from potluck.local import HANG_S, LocalSwarm, Process
from potluck.node.agent import _LEAVE_S
from potluck.types import Span, even_spans


def test_status_tells_who_serves_what(tiny_swarm):
    told = potluck("status", tiny_swarm.url)
    assert told.returncode == 0
    assert "Model tiny" in told.stdout
    assert "6 layers, context 4096." in told.stdout
    assert "Nodes per layer: 1 1 1 1 1 1\n" in told.stdout
    assert re.search(r"\nEvery layer is covered\.\nLayers \d-\d on .+ take \d+ % of a token's time", told.stdout)
    for span in even_spans(6, 3):
        [line] = [line for line in told.stdout.splitlines() if f"  {span} " in line]
        assert "ready" in line


def test_the_status_for_programs(tiny_swarm):
    reply = httpx.get(f"{tiny_swarm.url}/status", timeout=HANG_S)
    assert reply.headers["content-type"] == "application/json"
    status = reply.json()
    assert (status["model"], status["layers"], status["context"]) == ("tiny", 6, 4096)
    assert (status["served"], status["covered"], status["missing"]) == ([1] * 6, True, [])
    assert [(node["span"], node["state"], node["threads"]) for node in status["nodes"]] == [
        ("0-1", "ready", 1),
        ("2-3", "ready", 1),
        ("4-5", "ready", 1),
    ]
    assert all(node["tokens_per_s"] > 0 and node["prefill_tokens_per_s"] > 0 for node in status["nodes"])


def test_plan_tells_what_machines_would_give(tiny):
    told = potluck("plan", tiny, "300M@40x2", "8M", "--round-trip", "5", "--bandwidth", "100", "--context", "64")
    assert told.returncode == 0, told.stderr
    header, first, second, third, *words = told.stdout.splitlines()
    assert header.split() == ["machine", "layers", "MiB", "MiB", "on", "cards", "tokens/s"]
    assert first.split()[:3] == ["1:", "300M@40", "0-5"]
    assert second.split()[:3] == ["2:", "300M@40", "0-5"]
    assert third.split() == ["3:", "8M", "none"]
    assert re.fullmatch(r"One stream runs at 19\d\.\d tokens/s\.", words[0])  # a round trip, and reading a tiny model
    assert words[1].startswith("Many streams together run at ")
    assert words[2] == "The bottleneck is machine 1: 300M@40, with layers 0-5."
    assert words[3:] == ["Layers 0-5 on 1: 300M@40 take 100 % of a token's time."]


def test_plan_tells_what_is_missing(tiny):
    told = potluck("plan", tiny, "8M")
    assert told.returncode == 0, told.stderr
    needs = r"the swarm needs 2\d\d MiB more memory, at least 2\d\d of them in one machine"
    assert re.search(rf"\nNo machine can hold layers 0-5: {needs}\.\n$", told.stdout)


def test_a_plan_for_what_is_no_machine(tiny):
    assert complaint("plan", tiny, "8G@fast") == (
        "'8G@fast' is not a machine: write it as 8G, 8G+32G (a card's memory and the rest), 16G@40 (GB/s) or "
        "16G@40x3 (three of them)."
    )


def test_chat_answers_each_line_of_its_input(smol):
    told = potluck("chat", smol.url, stdin="Say hello in one word.\n")
    assert told.returncode == 0, told.stderr
    head, *answer = told.stdout.splitlines()
    assert head.startswith("Talking to SmolLM2")
    assert "".join(answer).strip()
    assert not told.stderr


def test_chat_tells_why_there_is_no_answer(tiny):
    with LocalSwarm(tiny, [], serve=LOCAL) as swarm:
        told = potluck("chat", swarm.url, stdin="Hello\n")
    assert told.returncode == 1
    assert told.stderr == "potluck: No node serves layers 0-5 now.\n"


def test_demo_answers_and_ends(tiny):
    told = potluck("demo", tiny, "--nodes", "2", "--prompt", "hello")
    assert told.returncode == 0, told.stderr
    assert "tiny.gguf on 2 nodes" in told.stdout
    assert "> hello\n" in told.stdout
    assert told.stdout.endswith("The swarm has stopped.\n")
    assert "Traceback" not in told.stdout + told.stderr


def test_a_demo_with_more_nodes_than_layers_is_refused(tiny):
    told = potluck("demo", tiny, "--nodes", "7")
    assert told.returncode == 1
    assert told.stderr == "potluck: The model has 6 layers: at most 6 nodes can share them.\n"


@contextmanager
def interrupted(process: Process, sign: signal.Signals = signal.SIGINT) -> Iterator[None]:
    """After the block the signal comes; the process must end with status 0, and take its children along.

    It ends at once: it waits for nobody as a node does that hands its sessions over.
    """
    with process:
        yield
        children, began = psutil.Process(process.popen.pid).children(recursive=True), time.monotonic()
        process.popen.send_signal(sign)
        assert process.wait() == 0, "\n".join(process.lines)
        assert time.monotonic() - began < _LEAVE_S
        assert not any("Traceback" in line for line in process.lines), "\n".join(process.lines)
        assert not [child for child in children if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]


def wait_for_children(process: Process, count: int) -> None:
    eventually(lambda: len(psutil.Process(process.popen.pid).children()) >= count)


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
def test_serve_and_join_end_at_once(tiny, sign):
    with LocalSwarm(tiny, [Span(0, 5)], serve=LOCAL, join=ONE_THREAD) as swarm:
        swarm.wait_covered()
        with interrupted(swarm.nodes[0], sign):
            pass
        assert swarm.nodes[0].lines[-1] == "Stopped."
        swarm.wait_until(lambda status: not status["covered"])
        with interrupted(swarm.coordinator, sign):
            pass
        assert swarm.coordinator.lines[-1] == "Stopped."


def test_serve_ends_in_the_middle_of_an_answer(tiny):
    body = {"model": "tiny", "prompt": "x", "max_tokens": 4000, "stream": True, "ignore_eos": True}
    with LocalSwarm(tiny, even_spans(6, 2), serve=LOCAL, join=ONE_THREAD) as swarm:
        swarm.wait_covered()
        with httpx.stream("POST", f"{swarm.url}/v1/completions", json=body, timeout=HANG_S) as reply:
            lines = reply.iter_lines()
            assert next(lines).startswith("data: {")
            with interrupted(swarm.coordinator):
                pass
            assert any("The coordinator is stopping." in line for line in lines)  # it was not written to its end
        for node in swarm.nodes:
            node.wait_for("trying again")


def test_join_ends_while_it_dials_and_while_it_loads(tiny, smollm2, tmp_path):
    with Process(["serve", str(smollm2), "--port", "0", *LOCAL]) as coordinator:
        url = coordinator.wait_for("join http").split()[-1]
        node = Process(["join", url, "0-29"], POTLUCK_CACHE=str(tmp_path))
        with interrupted(node):
            node.wait_for("Loading")
            wait_for_children(node, 1)
    node = Process(["join", url])
    with interrupted(node):
        node.wait_for("trying again")


@pytest.fixture
def vast(tmp_path: Path) -> Path:
    """A model of zeros, which take no room on the disk but long to be hashed, whatever the machine."""
    folder, nbytes = write_tiny_hf(tmp_path / "vast", layers=1, shards=1), 1 << 36
    tensor = {"dtype": "F32", "shape": [nbytes // 4], "data_offsets": [0, nbytes]}
    header = json.dumps({"model.layers.0.weight": tensor}).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(file.tell() + nbytes)
    return folder


def test_serve_ends_while_it_hashes_the_model(vast, tmp_path):
    process = Process(["serve", str(vast), "--port", "0", *LOCAL], POTLUCK_CACHE=str(tmp_path))
    weights = str(vast / "model.safetensors")
    with interrupted(process):
        eventually(lambda: weights in {file.path for file in psutil.Process(process.popen.pid).open_files()})


@pytest.mark.parametrize(
    "ready",
    [
        lambda demo: demo.wait_for("Potluck"),
        lambda demo: demo.wait_for("Loading layers"),
        lambda demo: demo.wait_for("> "),
    ],
    ids=["starting", "loading", "answering"],
)
def test_demo_ends_and_takes_its_swarm_along(smollm2, ready: Callable[[Process], None]):
    demo = Process(["demo", str(smollm2), "--nodes", "2", "--prompt", "Count to one thousand."])
    with interrupted(demo):
        ready(demo)


def test_chat_ends_while_it_waits_and_while_it_answers(tiny_swarm):
    for question in ("", "hello\n"):
        with speaking(*POTLUCK, "chat", tiny_swarm.url) as chat:
            assert chat.stdin is not None
            assert chat.stdout is not None
            assert chat.stderr is not None
            assert chat.stdout.readline().startswith("Talking to tiny")
            chat.stdin.write(question)
            chat.stdin.flush()
            if question:
                assert chat.stdout.read(1)
            chat.send_signal(signal.SIGINT)
            assert chat.wait(HANG_S) == 0
            assert "Traceback" not in chat.stderr.read()
