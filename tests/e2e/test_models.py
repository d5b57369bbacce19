"""`potluck models`: what a machine keeps of models is fetched ahead, listed, limited, and removed if nobody uses it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kit.hub import NAME, Hub
from kit.processes import LOCAL, ONE_THREAD, complaint, potluck
from kit.tiny_gguf import EXACT, write_tiny_gguf
from potluck.local import LocalSwarm
from potluck.types import Span

LAYERS = 6


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("repository")
    write_tiny_gguf(folder / "tiny.gguf", "llama", layers=LAYERS, tokenizer="bpe", dtype=EXACT, tensors_a_part=20)
    return folder


@pytest.fixture(scope="module")
def hub(repository: Path) -> Iterator[Hub]:
    with Hub(repository).running() as hub:
        yield hub


@pytest.fixture
def cache(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own; its commands find the hub."""
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    monkeypatch.setenv("POTLUCK_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def says(*arguments: object) -> str:
    told = potluck("models", *arguments)
    assert told.returncode == 0, told.stderr
    return told.stdout


def listed() -> dict[str, Any]:
    told: dict[str, Any] = json.loads(says("list", "--json"))
    return told


def spans() -> list[str]:
    return [each["layers"] for model in listed()["models"] for each in model["kept"]]


@pytest.fixture
def first_part(repository: Path) -> Path:
    return min(repository.glob("*.gguf"))


def test_layers_are_fetched_ahead_and_used_by_nodes(cache, hub, first_part):
    assert says("pull", f"hf:{NAME}", "0-2").startswith("Layers 0-2 of tiny are here and take 0.")
    assert says("pull", f"hf:{NAME}").startswith("Layers 0-5 of tiny are here and take ")
    assert spans() == ["0-2", "0-5"]
    with LocalSwarm(first_part, [Span(0, 2), Span(3, 5)], serve=LOCAL, join=ONE_THREAD) as swarm:
        swarm.wait_covered()
        for node in swarm.nodes:
            node.wait_for("This node has nothing to download: the layers are already here.")
        in_use = [each["layers"] for model in listed()["models"] for each in model["kept"] if each["in_use"]]
        assert in_use == ["0-2", "3-5"]
        assert "What nodes use now takes more: 0." in says("limit", "1K")
        assert spans() == ["0-2", "3-5"]
        assert complaint("models", "rm", "tiny") == "A node uses layers 0-2 of tiny: let it leave first."
    assert says("rm", "tiny").count("Removed layers") == 2
    assert spans() == []
    assert [file for file in (cache / "spans").rglob("*") if file.is_file()] == []


def test_the_list_for_people(cache, hub):
    assert says("list") == f"All layers together take 0.0 MiB in {cache}. There is no limit.\n"
    says("pull", f"hf:{NAME}", "3")
    header, row, total = says("list").splitlines()
    assert header.split() == ["model", "digest", "layers", "MiB", "last", "used"]
    assert row.split()[0] == "tiny"
    assert row.split()[2] == "3"
    assert total.endswith("There is no limit.")


@pytest.mark.parametrize("kept", [False, True])
def test_a_model_is_shown_wherever_it_is(cache, hub, first_part, kept):
    name: object = f"hf:{NAME}"
    if kept:
        says("pull", name, "3-4")
        name = "tiny"
    before = hub.storage.sent
    lines = says("show", name).splitlines()
    assert lines[0].startswith("Model tiny (" if kept else "Model tiny: llama, gguf.")
    assert lines[1].startswith("6 layers of 0.0 MiB, and 0.")
    assert lines[2] == "Context: 512 tokens."
    assert lines[3].startswith("Weights: Q8_0 (9")
    assert [line[:17] for line in lines[4:]] == (["Here: layers 3-4,"] if kept else [])
    if kept:
        assert hub.storage.sent == before
    else:
        assert says("show", first_part).splitlines() == lines
    assert json.loads(says("show", name, "--json"))["types"].keys() == {"Q8_0", "F32"}


def test_a_limit_evicts_what_was_not_used_for_longest(cache, hub):
    for layer in (1, 2, 3):
        says("pull", f"hf:{NAME}", layer)
    [model] = listed()["models"]
    for number, each in enumerate(sorted(cache.glob("spans/*/*.gguf"))):
        os.utime(each, (1000.0 + number, 1000.0 + number))
    size = max(each["bytes"] for each in model["kept"])
    assert says("limit") == "There is no limit.\n"
    told = says("limit", f"{int(2.5 * size)}")
    assert told.startswith("Removed layers 1 in ")
    assert told.endswith("The limit is 0.1 MiB.\n")
    says("pull", f"hf:{NAME}", 4)
    assert spans() == ["3", "4"]
    assert "but the cache may hold only 0.1 MiB" in complaint("models", "pull", f"hf:{NAME}", "0-5")
    assert spans() == ["3", "4"]
    assert says("limit", "none") == "There is no limit.\n"


def test_a_node_keeps_to_the_limit(cache, hub, first_part):
    with LocalSwarm(first_part, [], serve=LOCAL, join=[*ONE_THREAD, "--cache-limit", "1K"]) as swarm:
        node = swarm.add_node("0-5")
        assert node.wait() == 1
        assert (
            "but the cache may hold only 0.0 MiB: serve fewer layers, or allow more with --cache-limit."
            in (node.lines[-1])
        )
    assert listed()["limit"] == 1024


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["rm", "ghost"], "No layers of a model 'ghost' are here: potluck models list shows what is."),
        (["rm", "tiny", "0"], "Layers 0 of tiny are not here."),
        (["pull", "FIRST"], "is not on the hub: only models there are fetched."),
        (["pull", f"hf:{NAME}", "5-9"], "Span 5-9 is outside the model: its layers are 0-5."),
        (["pull", f"hf:{NAME}", "x"], "'x' is not a span: write it as 12 or 12-15, counted from 0."),
        (["pull", f"hf:{NAME}:Q9"], f"{NAME} has no Q9 in GGUF: choose from tiny (0.3 MB), as in hf:{NAME}:tiny."),
        (["show", "ghost"], "ghost does not exist."),
        (["limit", "lots"], "'lots' is not an amount of memory: write it as 6G or 800M."),
    ],
)
def test_what_cannot_be_done_is_told(cache, hub, first_part, arguments, sentence):
    says("pull", f"hf:{NAME}", "3")
    assert sentence in complaint("models", *(first_part if each == "FIRST" else each for each in arguments))
    assert spans() == ["3"]
