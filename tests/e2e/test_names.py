"""GGUF models in several files and by their names on the hub, with real processes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from kit.hub import NAME, Hub
from kit.processes import LOCAL, ONE_THREAD, complaint, potluck
from kit.tiny_gguf import EXACT, write_tiny_gguf
from potluck.local import LocalSwarm, Process
from potluck.models.shards import parts_of
from potluck.types import Span, even_spans

LAYERS = 6
PROMPT = "the hello potluck in the"


def write(path: Path, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_tiny_gguf(path, "llama", layers=LAYERS, tokenizer="bpe", dtype=EXACT, **options)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("whole") / "tiny.gguf")


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model in parts, the first of which holds no tensors, beside another one."""
    folder = tmp_path_factory.mktemp("repository")
    write(folder / "Q8_0" / "tiny.gguf", tensors_a_part=20, empty_first=True)
    write(folder / "tiny-Q4_0.gguf", seed=1, feed_forward=64)
    return folder


@pytest.fixture(scope="module")
def hub(repository: Path) -> Iterator[Hub]:
    with Hub(repository, "hf_friend").running() as hub:
        yield hub


@pytest.fixture
def settings(hub: Hub, tmp_path: Path) -> dict[str, Any]:
    """Where a command finds the hub, with the token that opens the model, and a cache of its own."""
    return {"HF_ENDPOINT": hub.url, "HF_TOKEN": "hf_friend", "POTLUCK_CACHE": str(tmp_path / "cache")}


def answer(client_of, model: Path, spans: Sequence[Span]) -> tuple[str, list[float]]:
    with LocalSwarm(model, spans, serve=LOCAL, join=ONE_THREAD) as swarm:
        return ask(client_of, swarm)


def ask(client_of, swarm: LocalSwarm) -> tuple[str, list[float]]:
    """The text and the log-probabilities of a greedy answer."""
    name = swarm.wait_covered()["model"]
    assert name == "tiny"
    options = {"temperature": 0, "logprobs": 0, "max_tokens": 24, "extra_body": {"ignore_eos": True}}
    [choice] = client_of(swarm).completions.create(model=name, prompt=PROMPT, **options).choices
    assert len(choice.logprobs.token_logprobs) == 24
    return choice.text, choice.logprobs.token_logprobs


@pytest.fixture(scope="module")
def alone(client_of, whole: Path) -> tuple[str, list[float]]:
    """The answer of the model in one file, on one node."""
    return answer(client_of, whole, [Span(0, LAYERS - 1)])


def test_a_model_in_parts_is_served_by_the_name_of_any_part(client_of, alone, repository):
    second = sorted((repository / "Q8_0").iterdir())[1]
    assert answer(client_of, second, even_spans(LAYERS, 2)) == alone


def test_a_copy_in_one_file_is_the_same_model(client_of, alone, whole, repository):
    first = min((repository / "Q8_0").iterdir())
    with LocalSwarm(first, [], serve=LOCAL, join=[*ONE_THREAD, "--model", str(whole)]) as swarm:
        swarm.add_node(f"0-{LAYERS - 1}")
        assert ask(client_of, swarm) == alone


def test_a_gated_model_on_the_hub_is_served_by_name_and_fetched_by_nodes(client_of, alone, hub, settings, tmp_path):
    weights = sum(file.stat().st_size for file in (hub.folder / "Q8_0").iterdir())
    before = hub.storage.sent
    with LocalSwarm(Path(f"hf:{NAME}:q8_0"), [], serve=LOCAL, join=ONE_THREAD, **settings) as swarm:
        hashed = hub.storage.sent - before
        assert 0.9 * weights <= hashed <= 3 * weights  # once, to be hashed, and twice the beginnings of small files
        for span in even_spans(LAYERS, 2):
            swarm.add_node(str(span))
        assert ask(client_of, swarm) == alone
        fetched = hub.storage.sent - before - hashed
        assert 0.9 * weights <= fetched <= 1.1 * weights  # each node its own part
    [vocabulary] = (tmp_path / "cache" / "hub").rglob("*.gguf")
    assert vocabulary.name == f"{min((hub.folder / 'Q8_0').iterdir()).stem}.vocabulary.gguf"


def test_the_name_of_llama_cpp_users_is_understood(settings):
    with Process(["serve", "-hf", f"{NAME}:Q8_0", "--port", "0", *LOCAL], **settings) as coordinator:
        assert f"({LAYERS} layers, " in coordinator.wait_for("Serving tiny at ")


def test_a_plan_is_made_for_a_model_on_the_hub(settings, monkeypatch):
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    told = potluck("plan", f"hf:{NAME}/tiny-Q4_0.gguf", "300M@40", "--revision", "main", "--context", "64")
    assert told.returncode == 0, told.stderr
    assert "One stream runs at" in told.stdout


# What is wrong is told before anything is served


@pytest.fixture
def refused(settings, monkeypatch):
    """The sentence with which `serve` refuses a model."""
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    return lambda *model: complaint("serve", *model, "--port", 0, *LOCAL)


@pytest.mark.parametrize("missing", [0, 1, 2])
def test_a_missing_part(tmp_path, refused, missing):
    first = write(tmp_path / "parts" / "tiny.gguf", tensors_a_part=20)
    names = parts_of(first.name)
    first.with_name(names[missing]).unlink()
    said = refused(first.with_name(names[1 if missing == 0 else 0]))
    assert said == (
        f"{first.with_name(names[missing])} is missing, and without it the model, which comes in 3 files, is not "
        "complete."
    )


def test_a_quantization_that_is_left_open_or_not_there(refused):
    for name, begin in ((NAME, f"{NAME} has several quantizations"), (f"{NAME}:Q9", f"{NAME} has no Q9 in GGUF")):
        said = refused(name)
        assert said.startswith(f"{begin}: choose from Q4_0 (0.")
        assert said.endswith(f" MB), as in hf:{NAME}:Q4_0.")


def test_a_gated_model_without_a_token(refused, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "")
    monkeypatch.setenv("HF_HOME", "/nowhere")
    assert refused(f"hf:{NAME}:Q8_0").startswith(f"The hub shows {NAME} to nobody without a token")


def test_a_revision_that_is_not_there(refused):
    assert "it answers 404" in refused(f"hf:{NAME}:Q8_0", "--revision", "v9")


def test_a_path_has_no_revision(refused, whole):
    assert "leave --revision out" in refused(whole, "--revision", "v9")


@pytest.mark.parametrize("command", [("plan", "8G"), ("models", "show"), ("convert", "out.gguf"), ("demo",)], ids=str)
def test_a_path_that_is_too_long(command):
    words = [*command[:2], "x" * 5000] if command[0] == "models" else [command[0], "x" * 5000, *command[1:]]
    assert complaint(*words) == f"{'x' * 100} cannot be opened: File name too long."


def test_no_model_or_two_ways_to_name_one(refused, whole):
    for names in ([], [whole, "-hf", f"{NAME}:Q8_0"]):
        assert refused(*names).startswith("Name a model: a path, a name such as hf:OWNER/REPO:Q4_K_M, or -hf")
