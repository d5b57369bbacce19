"""Nodes: which layers they serve, where their bytes come from, and what a swarm with holes says."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import openai
import pytest

from kit.processes import LOCAL, ONE_THREAD, potluck
from kit.proxy import Proxy
from kit.tiny_gguf import EXACT, write_tiny_gguf
from kit.unsplit import Unsplit, check_greedy, memory_for
from potluck.local import LocalSwarm, Process
from potluck.types import Span

CONTEXT = 512
LAYERS = 16


def has_nodes(count: int, status: dict[str, Any]) -> bool:
    return len(status["nodes"]) == count


@pytest.fixture(scope="module")
def deep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model of 16 layers."""
    path = tmp_path_factory.mktemp("deep") / "deep.gguf"
    return write_tiny_gguf(path, layers=LAYERS, tokenizer="bpe", context=CONTEXT, dtype=EXACT)


@pytest.fixture(scope="module")
def deep_unsplit(deep: Path) -> Iterator[Unsplit]:
    model = Unsplit(deep, CONTEXT)
    yield model
    model.close()


def test_a_swarm_fills_up_layer_by_layer(deep, deep_unsplit, client_of):
    """`join URL 12`, then `4-9`, then nodes that leave the choice to the coordinator."""
    with LocalSwarm(deep, [], serve=LOCAL, join=ONE_THREAD) as swarm:
        client = client_of(swarm)
        assert swarm.status()["missing"] == ["0-15"]
        swarm.add_node("12", "--name", "one")
        swarm.add_node("4-9", "--name", "six")
        status = swarm.wait_until(lambda status: sum(status["served"]) == 7)
        assert status["served"] == [0] * 4 + [1] * 6 + [0, 0, 1, 0, 0, 0]
        assert status["missing"] == ["0-3", "10-11", "13-15"]
        assert not status["covered"]
        told = potluck("status", swarm.url).stdout
        assert "Nodes per layer: 0 0 0 0 1 1 1 1 1 1 0 0 1 0 0 0" in told
        assert "No node serves layers 0-3, 10-11, 13-15." in told
        with pytest.raises(openai.InternalServerError, match="No node serves layers 0-3, 10-11, 13-15 now") as raised:
            client.completions.create(model="deep", prompt="x")
        assert raised.value.status_code == 503
        assert raised.value.type == "server_error"
        assert raised.value.response.headers["retry-after"]
        spans = set()
        for _ in range(3):
            known = len(swarm.status()["nodes"])
            swarm.add_node("--memory", str(memory_for(deep, Span(0, 3), CONTEXT)))
            status = swarm.wait_until(partial(has_nodes, known + 1))
            spans = {node["span"] for node in status["nodes"]}
        status = swarm.wait_covered()
        assert spans >= {"12", "4-9", "0-3"}
        assert all(count <= 2 for count in status["served"])
        check_greedy(client, "deep", deep_unsplit)


def test_a_node_that_offers_too_little_memory_is_told_so(deep):
    with LocalSwarm(deep, [], serve=LOCAL) as swarm:
        for span in ([], ["0-15"]):
            with swarm.add_node(*span, "--memory", "200M") as node:
                assert node.wait() == 1
                [line] = [line for line in node.lines if line.startswith("potluck: ")]
                assert "MiB of memory" in line
                assert "Traceback" not in "".join(node.lines)


def test_overlapping_spans_serve_together(tiny, tiny_unsplit, client_of):
    with LocalSwarm(tiny, [Span(0, 3), Span(2, 5)], serve=LOCAL, join=ONE_THREAD) as swarm:
        assert swarm.wait_covered()["served"] == [1, 1, 2, 2, 1, 1]
        check_greedy(client_of(swarm), "tiny", tiny_unsplit)


@pytest.fixture
def fetches(tiny, tmp_path):
    """Whether a node with these arguments asked the coordinator for parts of the model's file."""
    with (
        LocalSwarm(tiny, [], serve=LOCAL) as swarm,
        Proxy(swarm.url).running() as proxy,
    ):

        def run(*arguments: str, cache: Path = tmp_path / "cache") -> bool:
            proxy.heard.clear()
            with Process(["join", proxy.url, "1-2", *ONE_THREAD, *arguments], POTLUCK_CACHE=str(cache)) as node:
                node.wait_for("Serving layers 1-2")
                assert "/node" in proxy.paths
            return any(path.startswith("/files/") for path in proxy.paths)

        yield run


def test_a_node_that_has_the_model_fetches_nothing(fetches, tiny, tmp_path):
    other = tmp_path / "elsewhere" / "copy.gguf"
    other.parent.mkdir()
    shutil.copy(tiny, other)
    assert not fetches("--model", str(tiny))
    assert not fetches("--model", str(other), cache=tmp_path / "fresh")


def test_a_node_fetches_from_another_one_when_the_coordinator_is_slow(tmp_path):
    model = write_tiny_gguf(tmp_path / "wide.gguf", layers=6, hidden=512, feed_forward=1024, heads=8, tokenizer="bpe")
    caches = [tmp_path / "first", tmp_path / "second"]  # other tests' models have layers 0-5 in the common one
    with LocalSwarm(model, [], serve=LOCAL, join=ONE_THREAD) as swarm:
        swarm.add_node("0-5", POTLUCK_CACHE=str(caches[0]))
        swarm.wait_covered()
        with Proxy(swarm.url, pace=1e6).running() as proxy:
            node = swarm.add_node("0-5", url=proxy.url, POTLUCK_CACHE=str(caches[1]))
            node.wait_for("Serving layers 0-5")
            [first, second] = [file for cache in caches for file in cache.rglob("0-5.gguf")]
            assert second.read_bytes() == first.read_bytes()
            assert len(proxy.told) < second.stat().st_size / 2
            assert node.stop() == 0


def test_a_second_start_fetches_nothing(fetches, tmp_path):
    assert fetches()
    assert [file.name for file in (tmp_path / "cache" / "spans").rglob("*.gguf")] == ["1-2.gguf"]
    assert not fetches()
    assert fetches(cache=tmp_path / "another")
