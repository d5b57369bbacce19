"""Real processes serve models whose layers are not those of Llama, though a node is lost, and through several turns."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import openai
import pytest

from kit.processes import LOCAL, ONE_THREAD
from kit.tiny_architectures import write_case
from kit.unsplit import Unsplit
from potluck.local import LocalSwarm
from potluck.models.sources import open_model
from potluck.models.spans import cuts_of

CONTEXT = 512
TOKENS = 100
KINDS = {
    "qwen3moe": "experts",
    "gpt-oss": "experts and windows",
    "deepseek2": "experts after dense layers, and latent attention",
    "mamba2": "states only",
    "jamba": "states, attention and experts",
}


@pytest.fixture(scope="module", params=KINDS, ids=[*KINDS.values()])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_case(tmp_path_factory.mktemp("kinds") / "tiny.gguf", request.param, tokenizer="bpe")


def ask(client: openai.OpenAI, prompt: list[int]) -> Iterator[str]:
    stream = client.completions.create(
        model="tiny",
        prompt=prompt,
        max_tokens=TOKENS,
        temperature=0,
        stream=True,
        extra_body={"ignore_eos": True},
    )
    return (choice.text for chunk in stream for choice in chunk.choices)


def test_answers_are_those_of_the_unsplit_model_though_a_node_dies(model, client_of):
    head, tail = cuts_of(open_model(model)).split(2)
    prompt = list(range(60))
    with closing(Unsplit(model, CONTEXT)) as unsplit:
        said = unsplit.greedy(prompt, TOKENS, ignore_eos=True)
        prompts = [prompt, [*prompt, *said, *prompt], prompt[:40]]
        answers = [said, *(unsplit.greedy(one, TOKENS, ignore_eos=True) for one in prompts[1:])]
        expected = [
            b"".join(unsplit.tokenizer.piece(token) for token in answer).decode("utf-8", "replace")
            for answer in answers
        ]
    # Without audits, no node holds a session that it does not serve.
    with LocalSwarm(model, [head], serve=[*LOCAL, "--audit", "0"], join=ONE_THREAD) as swarm:
        nodes = {name: swarm.add_node(str(tail), "--name", name) for name in ("castor", "pollux")}
        swarm.wait_covered()
        client = client_of(swarm)
        answer = ask(client, prompt)
        text = "".join(next(answer) for _ in range(10))
        [victim] = [node["name"] for node in swarm.status()["nodes"] if node["sessions"] and node["name"] in nodes]
        nodes[victim].popen.kill()
        assert nodes[victim].wait() == -signal.SIGKILL
        assert [text + "".join(answer), *("".join(ask(client, one)) for one in prompts[1:])] == expected
