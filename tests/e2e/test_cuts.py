"""A model that cannot be cut between any two layers: wrong spans are refused, and what is chosen here is right."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from kit.processes import LOCAL, ONE_THREAD, complaint, potluck
from kit.tiny_architectures import write_tiny
from kit.unsplit import Unsplit, check_greedy, memory_for
from potluck.local import LocalSwarm
from potluck.types import Span

CONTEXT = 512
PARTS = [Span(0, 1), Span(2, 3), Span(4, 5), Span(6, 7)]
"""Every other layer has a sliding window, and llama.cpp runs no span without any."""


@pytest.fixture(scope="module")
def windows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("windows") / "windows.gguf"
    return write_tiny(path, "gemma2", {"attention.sliding_window": 24}, tokenizer="bpe")


@pytest.fixture(scope="module")
def windows_unsplit(windows: Path) -> Iterator[Unsplit]:
    model = Unsplit(windows, CONTEXT)
    yield model
    model.close()


def test_nodes_get_only_what_can_be_cut_out_of_the_model(windows, windows_unsplit, client_of):
    largest = max(memory_for(windows, part, CONTEXT) for part in PARTS)
    with LocalSwarm(windows, [], serve=LOCAL, join=ONE_THREAD) as swarm:
        told = "Span 3-4 cannot be cut out of this model: take 2-3 or 4-5 instead."
        assert complaint("join", swarm.url, "3-4") == told
        assert complaint("join", swarm.url, "3-4", "--dry-run") == told
        least = "Even the smallest span, 2-3, needs 257 MiB of memory; you offer 256."
        assert complaint("join", swarm.url, "--memory", "256M") == least
        assert swarm.status()["nodes"] == []
        for _ in PARTS:
            swarm.add_node("--memory", str(largest))
        status = swarm.wait_covered()
        assert {node["span"] for node in status["nodes"]} <= {"0-1", "0-3", "2-3", "2-5", "4-5", "6-7"}
        check_greedy(client_of(swarm), "windows", windows_unsplit)


def test_a_stage_may_end_inside_a_span_and_the_next_one_begins_where_its_own_does(windows, windows_unsplit, client_of):
    with LocalSwarm(windows, [Span(0, 5), Span(4, 7)], serve=LOCAL, join=ONE_THREAD) as swarm:
        assert swarm.wait_covered()["served"] == [1, 1, 1, 1, 2, 2, 1, 1]
        check_greedy(client_of(swarm), "windows", windows_unsplit)


def test_a_plan_has_only_what_can_be_cut_out_of_the_model(windows):
    largest = max(memory_for(windows, part, CONTEXT) for part in PARTS)
    machine = f"{largest / 1024}K@1x4"
    told = json.loads(potluck("plan", windows, machine, "--context", CONTEXT, "--json").stdout)
    assert told["missing"] == []
    assert {one["span"] for one in told["machines"]} <= {"0-1", "0-3", "2-3", "2-5", "4-5", "6-7"}


def test_a_demo_cuts_the_model_where_it_may_be_cut(windows):
    assert complaint("demo", windows, "--nodes", "5") == "The model has 8 layers: at most 4 nodes can share them."
    told = potluck("demo", windows, "--nodes", "3", "--prompt", "hello")
    assert told.returncode == 0, told.stderr
    for span in ("0-1", "2-5", "6-7"):  # whoever has the head has no more layers than it must
        assert f"Serving layers {span} of " in told.stdout
