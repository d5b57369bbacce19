"""Models that are loaded when somebody asks for them, on nodes that accept any."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from kit.processes import LOCAL, ONE_THREAD, complaint, potluck
from kit.tiny_gguf import EXACT, write_tiny_gguf
from kit.unsplit import memory_for
from kit.waiting import eventually
from potluck.local import HANG_S, LocalSwarm
from potluck.types import Span

PROMPTS = ("Once upon a time", "def f(n):")
CONTEXT = 512
NAMES = ("one", "two", "three")
SWIFT = """
from potluck.coordinator.gateway import lending
from potluck.coordinator.sessions import demand

lending._LOOK_S = 0.2
demand.USUAL = demand.Times(idle_s=1.0, stay_s=0.0)

from potluck.cli import main

main()
"""
"""A coordinator that soon lets go a model which nobody uses."""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Three models of equal size, by their names."""
    folder = tmp_path_factory.mktemp("models")
    return {
        name: write_tiny_gguf(folder / f"{name}.gguf", "llama", tokenizer="bpe", layers=4, dtype=EXACT, seed=seed)
        for seed, name in enumerate(NAMES, 1)
    }


@pytest.fixture(scope="module")
def alone(models: dict[str, Path]) -> dict[str, list[str]]:
    """The answers of each model in a swarm of its own, on one node."""
    answers = {}
    for name, path in models.items():
        with LocalSwarm(path, [], serve=LOCAL, join=ONE_THREAD) as swarm:
            swarm.add_node()
            swarm.wait_covered()
            answers[name] = asked(swarm, name)
    return answers


@contextmanager
def offering(models: dict[str, Path], folder: Path, *served: str) -> Iterator[LocalSwarm]:
    """A coordinator that serves some of the models, and offers the others."""
    listed = folder / "offer.toml"
    entries = [f'[[model]]\nmodel = "{path}"\n' for name, path in models.items() if name not in served]
    listed.write_text("\n".join(entries))
    first = models[served[0]] if served else None
    options = ["--offer", str(listed), *LOCAL]
    with LocalSwarm(first, [], serve=options, join=ONE_THREAD, program=("-c", SWIFT)) as swarm:
        yield swarm


def states(swarm: LocalSwarm) -> dict[str, str]:
    told = httpx.get(f"{swarm.url}/v1/models", timeout=HANG_S).json()["data"]
    return {each["id"]: each["state"] for each in told}


def nodes(swarm: LocalSwarm) -> dict[str, list[str]]:
    """The names of each model's nodes, and of those that wait."""
    told = swarm.status()
    named = {one["model"]: sorted(node["name"] for node in one["nodes"]) for one in told["models"]}
    return {**named, "idle": [node["name"] for node in told["idle"]]}


def asked(swarm: LocalSwarm, name: str, **options: Any) -> list[str]:
    """What the official client gets for all prompts at once."""
    with openai.OpenAI(base_url=f"{swarm.url}/v1", api_key="none", max_retries=0, timeout=HANG_S) as client:

        def ask(prompt: str) -> str:
            usual: dict[str, Any] = {"max_tokens": 12, "temperature": 0}
            return client.completions.create(model=name, prompt=prompt, **usual | options).choices[0].text

        with ThreadPoolExecutor(len(PROMPTS)) as threads:
            return list(threads.map(ask, PROMPTS))


def test_a_model_is_loaded_when_it_is_asked_for_and_let_go_for_another(
    models: dict[str, Path], alone: dict[str, list[str]], tmp_path: Path
) -> None:
    half = str(max(memory_for(models["one"], part, CONTEXT) for part in (Span(0, 1), Span(2, 3))))
    with offering(models, tmp_path) as swarm:
        assert states(swarm) == dict.fromkeys(NAMES, "offered")
        for name in ("anna", "ben"):
            node = swarm.add_node("--any", "--name", name, "--memory", half)
            node.wait_for("Waiting until somebody asks for a model.")
        eventually(lambda: nodes(swarm) == {"one": [], "two": [], "three": [], "idle": ["anna", "ben"]})
        assert "potluck_layers" not in httpx.get(f"{swarm.url}/metrics", timeout=HANG_S).text
        assert asked(swarm, "one") == alone["one"]
        assert states(swarm) == {"one": "ready", "two": "offered", "three": "offered"}
        assert nodes(swarm) == {"one": ["anna", "ben"], "two": [], "three": [], "idle": []}
        assert asked(swarm, "two") == alone["two"]
        assert nodes(swarm) == {"one": [], "two": ["anna", "ben"], "three": [], "idle": []}
        assert asked(swarm, "one") == alone["one"]
        assert states(swarm) == {"one": "ready", "two": "offered", "three": "offered"}
        told = httpx.get(f"{swarm.url}/metrics", timeout=HANG_S).text
        assert 'potluck_layers{model="two"}' in told
        assert 'model="three"' not in told
        shown = potluck("status", swarm.url).stdout
        assert "three" in shown
        assert "It is loaded when somebody asks for it." in shown


def test_a_stream_tells_how_much_of_the_model_is_loaded(models: dict[str, Path], tmp_path: Path) -> None:
    with offering(models, tmp_path) as swarm:
        swarm.add_node("--any").wait_for("Waiting until somebody asks for a model.")
        body = {"model": "three", "prompt": "a", "max_tokens": 2, "stream": True, "return_progress": True}
        with httpx.stream("POST", f"{swarm.url}/v1/completions", json=body, timeout=HANG_S) as reply:
            events = [json.loads(line[6:]) for line in reply.iter_lines() if line.startswith("data: {")]
        progress = [event["prompt_progress"] for event in events if "prompt_progress" in event]
        assert progress[0]["loading"] < 1
        assert "loading" not in progress[-1]


def test_what_is_served_keeps_its_nodes_and_so_do_those_who_did_not_agree(
    models: dict[str, Path], alone: dict[str, list[str]], tmp_path: Path
) -> None:
    with offering(models, tmp_path, "one") as swarm:
        swarm.add_node("--any", "--name", "anna")
        eventually(lambda: states(swarm) == {"one": "ready", "two": "offered", "three": "offered"})
        refused = httpx.post(
            f"{swarm.url}/v1/completions", json={"model": "two", "prompt": "a", "max_tokens": 1}, timeout=HANG_S
        )
        assert refused.status_code == 503
        assert "two is not loaded, and the nodes that are here cannot load it: layers 0-3 need" in refused.text
        swarm.add_node("--name", "ben")
        eventually(lambda: [node["state"] for node in swarm.status()["models"][0]["nodes"]] == ["ready"] * 2)
        assert asked(swarm, "two") == alone["two"]  # anna can go now, because ben serves what she did
        assert nodes(swarm) == {"one": ["ben"], "two": ["anna"], "three": [], "idle": []}
        assert asked(swarm, "one") == alone["one"]


def test_a_node_that_may_serve_none_is_refused(models: dict[str, Path], tmp_path: Path) -> None:
    with offering(models, tmp_path) as swarm:
        told = complaint("join", swarm.url, *ONE_THREAD, "--on-battery")
        assert told.startswith("Models are loaded here only when somebody asks for them: join with --any to serve any")
        tried = potluck("join", swarm.url, *ONE_THREAD, "--on-battery", "--any", "--dry-run")
        assert "Waiting until somebody asks for a model." in tried.stdout
