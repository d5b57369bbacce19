"""Hugging Face models: from a directory, from the hub, by either engine, and converted."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
from openai import BadRequestError
from tokenizers import AddedToken, Tokenizer

from kit.fileserver import FileServer
from kit.processes import LOCAL, ONE_THREAD, complaint, potluck
from kit.tiny_gguf import bpe_tokens
from kit.tiny_hf import write_tiny_hf, write_tiny_tokenizer
from potluck.local import LocalSwarm
from potluck.types import even_spans

LAYERS = 4
PROMPT = "the hello potluck in the"
needs_torch = pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="PyTorch is not installed.")


@pytest.fixture(scope="module", params=["llama", "gpt_neox"])
def directory(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model as the hub would hold it."""
    folder = write_tiny_hf(tmp_path_factory.mktemp("hf") / request.param, request.param, layers=LAYERS)
    write_tiny_tokenizer(folder)
    return folder


def served(client_of, model, nodes: int = 2, *, serve=(), **env: Any) -> tuple[str, list[float]]:
    """The text and log-probabilities of a greedy answer, and a chat that works."""
    with LocalSwarm(model, even_spans(LAYERS, nodes), serve=[*LOCAL, *serve], join=ONE_THREAD, **env) as swarm:
        name = swarm.wait_covered()["model"]
        client = client_of(swarm)
        options = {"temperature": 0, "logprobs": 0, "max_tokens": 24, "extra_body": {"ignore_eos": True}}
        [choice] = client.completions.create(model=name, prompt=PROMPT, **options).choices
        messages = [{"role": "user", "content": "hello"}]
        chat = client.chat.completions.create(model=name, messages=messages, max_tokens=4)
        assert chat.usage.completion_tokens <= 4
    return choice.text, choice.logprobs.token_logprobs


@pytest.fixture(scope="module")
def by_llamacpp(directory, client_of):
    """In f16."""
    return served(client_of, directory, serve=["--quantize", "f16"])


@pytest.mark.parametrize("directory", ["gpt_neox"], indirect=True)
def test_a_directory_is_served_by_the_default_engine(directory, client_of):
    text, _ = served(client_of, directory, nodes=3)
    assert len(text) >= 6


@needs_torch
def test_both_engines_give_the_same_text(directory, client_of, by_llamacpp):
    text, logprobs = served(client_of, directory, serve=["--engine", "transformers"])
    assert text == by_llamacpp[0]
    assert logprobs == pytest.approx(by_llamacpp[1], rel=0.02)


@pytest.mark.parametrize("directory", ["gpt_neox"], indirect=True)
def test_a_converted_model_is_the_same(directory, client_of, by_llamacpp, tmp_path):
    out = tmp_path / "out.gguf"
    told = potluck("convert", directory, out, "--quantize", "f16")
    assert told.returncode == 0, told.stderr
    assert told.stdout.splitlines()[-1].startswith(f"{out} contains {directory.name} in f16")
    assert served(client_of, out) == by_llamacpp


@pytest.mark.parametrize("directory", ["llama"], indirect=True)
def test_a_model_on_the_hub_is_served_without_being_kept(directory, client_of, by_llamacpp, tmp_path):
    with FileServer(directory).running() as hub:
        env: dict[str, Any] = {"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0", "POTLUCK_CACHE": str(tmp_path)}
        with LocalSwarm(Path("someone/tiny"), [], serve=[*LOCAL, "--quantize", "f16"], **env):
            hashed = hub.sent
        total = sum(file.stat().st_size for file in directory.glob("*.safetensors"))
        assert hashed >= total * 0.9  # once, to be hashed
        assert served(client_of, "someone/tiny", serve=["--quantize", "f16"], **env) == by_llamacpp
        assert total * 0.9 <= hub.sent - hashed <= total * 1.1  # by the nodes, each its own part
        assert not list(tmp_path.rglob("*.safetensors"))


def test_a_repository_that_the_hub_does_not_have(tmp_path, monkeypatch):
    with FileServer(tmp_path).running() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.setenv("HF_HUB_OFFLINE", "0")
        assert "someone/else is not a path here, and the hub at" in complaint("serve", "someone/else", "--port", 0)


def test_a_request_that_leaves_its_sampling_open_gets_the_models_own(tmp_path, client_of):
    """With top_k = 1 every seed gives the same text, and with a temperature of 2 over all tokens none does."""
    folder = write_tiny_hf(tmp_path / "sampled", layers=LAYERS)
    write_tiny_tokenizer(folder)
    (folder / "generation_config.json").write_text(json.dumps({"temperature": 2.0, "top_k": 1}))
    with LocalSwarm(folder, even_spans(LAYERS, 1), serve=LOCAL, join=ONE_THREAD) as swarm:
        name = swarm.wait_covered()["model"]
        client = client_of(swarm)

        def text(seed: int, **extra: Any) -> str:
            extra = {"extra_body": {"ignore_eos": True, **extra}}
            return (
                client.completions.create(model=name, prompt=PROMPT, max_tokens=24, seed=seed, **extra).choices[0].text
            )

        assert text(1) == text(2)
        assert text(1, top_k=0) != text(2, top_k=0)


@pytest.mark.parametrize("engine", ["llamacpp", pytest.param("transformers", marks=needs_torch)])
def test_a_token_that_only_the_tokenizer_has_is_the_requests_fault_and_no_nodes(tmp_path, client_of, engine):
    """It is refused where a request names it, and is not taken where it might come."""
    known = len(bpe_tokens())
    folder = write_tiny_hf(tmp_path / "one_more", layers=LAYERS, vocabulary=known)
    write_tiny_tokenizer(folder)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.add_tokens([AddedToken('{"', normalized=False)])
    tokenizer.save(str(folder / "tokenizer.json"))
    with LocalSwarm(folder, even_spans(LAYERS, 2), serve=[*LOCAL, "--engine", engine], join=ONE_THREAD) as swarm:
        name = swarm.wait_covered()["model"]
        client = client_of(swarm)
        told = f"has a token that the model does not know: {known}."
        for prompt in ('the {"', [1, known]):
            with pytest.raises(BadRequestError, match=f"prompt {told}"):
                client.completions.create(model=name, prompt=prompt)
        with pytest.raises(BadRequestError, match=f"messages {told}"):
            client.chat.completions.create(model=name, messages=[{"role": "user", "content": '{"'}])
        with pytest.raises(BadRequestError, match="logit_bias names a token outside"):
            client.completions.create(model=name, prompt="the", logit_bias={str(known): 1})
        with pytest.raises(BadRequestError, match=f"tokens {told}"):
            client.post("/hidden_states", cast_to=object, body={"model": name, "layer": 0, "tokens": [known]})
        for form in ({"type": "object"}, {"enum": ['{"']}, {"enum": [{"a": 1}]}):
            reply = client.chat.completions.create(
                model=name,
                messages=[{"role": "user", "content": "the"}],
                max_tokens=60,
                temperature=0,
                response_format={"type": "json_schema", "json_schema": {"name": "one", "schema": form}},
            )
            [choice] = reply.choices
            assert choice.finish_reason == "length" or json.loads(choice.message.content) in ({}, '{"', {"a": 1})
        assert [node["state"] for node in swarm.status()["nodes"]] == ["ready", "ready"]


# What is wrong is told before any node loads


@pytest.fixture
def broken(tmp_path) -> Path:
    folder = write_tiny_hf(tmp_path / "broken")
    write_tiny_tokenizer(folder)
    return folder


def change_config(folder: Path, **settings: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | settings))


def test_a_directory_without_a_config(broken):
    (broken / "config.json").unlink()
    assert f"{broken}/config.json is missing" in complaint("serve", broken, "--port", 0)


def test_a_directory_without_a_tokenizer(broken):
    (broken / "tokenizer.json").unlink()
    assert "tokenizer.json" in complaint("serve", broken, "--port", 0)


def test_a_missing_shard(broken):
    shard = broken / "model-00002-of-00003.safetensors"
    shard.unlink()
    assert complaint("serve", broken, "--port", 0).startswith(f"{shard} is missing")


def test_a_truncated_shard(broken):
    shard = broken / "model-00002-of-00003.safetensors"
    for size in (5, 100, shard.stat().st_size - 10):
        shard.write_bytes(shard.read_bytes()[:size])
        assert str(shard) in complaint("serve", broken, "--port", 0)


def test_an_index_that_names_a_tensor_no_file_has(broken):
    index = broken / "model.safetensors.index.json"
    entries = json.loads(index.read_text())
    entries["weight_map"]["model.ghost"] = "model-00001-of-00003.safetensors"
    index.write_text(json.dumps(entries))
    assert "does not hold model.ghost" in complaint("serve", broken, "--port", 0)


def test_an_unknown_architecture(broken):
    change_config(broken, model_type="spoon", architectures=["SpoonForCausalLM"])
    assert "spoon" in complaint("serve", broken, "--port", 0)


@pytest.mark.parametrize(
    ("settings", "options", "reason"),
    [
        ({"quantization_config": {"quant_method": "awq"}}, [], "the weights are already quantized (awq)"),
        ({"quantization_config": {"quant_method": "fp8"}}, ["--engine", "transformers"], "already quantized (fp8)"),
        ({"architectures": ["GPTJForCausalLM"], "model_type": "gptj"}, [], "they have no attention interface"),
        ({"model_type": "stablelm"}, ["--engine", "transformers"], "they have no attention interface"),
        ({"architectures": ["BloomForCausalLM"], "model_type": "bloom"}, [], "they have no attention interface"),
        ({"architectures": ["MambaForCausalLM"], "model_type": "mamba"}, [], "keep other state than keys and values"),
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, ["--context", 513], "use --context 512 or less"),
    ],
)
def test_what_every_node_would_refuse(broken, settings, options, reason):
    change_config(broken, **settings)
    assert reason in complaint("serve", broken, "--port", 0, *options)


def test_a_quantization_of_another_engine(broken):
    assert "quantizes to" in complaint("serve", broken, "--port", 0, "--quantize", "int8")


def test_an_output_that_cannot_be_written(broken, tmp_path):
    (tmp_path / "file").touch()
    assert str(tmp_path) in complaint("convert", broken, tmp_path / "file" / "out.gguf")
    assert "does not exist" in complaint("convert", tmp_path / "ghost", tmp_path / "out.gguf")
