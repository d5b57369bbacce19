"""Templates and texts that would take a processor for ever hurt nobody but the one who sends them."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import httpx
import pytest

from kit.processes import LOCAL, ONE_THREAD, complaint
from kit.tiny_gguf import EXACT, write_tiny_gguf
from potluck.local import HANG_S, LocalSwarm
from potluck.types import even_spans

TEMPLATE = """
{%- set said = messages[0].content -%}
{%- if said == 'loop' -%}
    {%- for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor -%}
{%- elif said == 'memory' -%}
    {{- said * 10 ** 11 -}}
{%- elif said == 'recursion' -%}
    {%- macro again(n) %}{{ again(n + 1) }}{% endmacro -%}{{ again(0) }}
{%- endif -%}
{{ said }}"""
"""A template that is good, and bad, as the client asks."""


@pytest.fixture(scope="module")
def swarm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalSwarm]:
    path = tmp_path_factory.mktemp("hostile") / "tiny.gguf"
    model = write_tiny_gguf(path, tokenizer="bpe", template=TEMPLATE, context=4096, dtype=EXACT)
    with LocalSwarm(model, even_spans(6, 1), serve=LOCAL, join=ONE_THREAD) as running:
        running.wait_covered()
        yield running


def ask(swarm: LocalSwarm, content: str) -> httpx.Response:
    body = {"model": "tiny", "max_tokens": 4, "messages": [{"role": "user", "content": content}]}
    return httpx.post(f"{swarm.url}/v1/chat/completions", json=body, timeout=HANG_S)


@pytest.mark.skipif(sys.platform != "linux", reason="Elsewhere not everything is bounded by the kernel.")
@pytest.mark.parametrize(
    ("content", "says"),
    [("loop", "takes too long to render"), ("memory", "takes too much memory to render"), ("recursion", "render")],
)
def test_a_template_bomb_is_refused_in_a_sentence_while_others_are_answered(swarm, content, says):
    with ThreadPoolExecutor(4) as threads:
        bombs = [threads.submit(ask, swarm, content) for _ in range(4)]
        assert httpx.get(f"{swarm.url}/health", timeout=HANG_S).json() == {"status": "ok"}
        if content == "loop":
            assert not any(bomb.done() for bomb in bombs)  # it takes two seconds of a processor
        refusals: list[Any] = [bomb.result().json()["error"] for bomb in bombs]
    for error in refusals:
        assert says in error["message"]
        assert (error["param"], error["type"]) == ("messages", "invalid_request_error")
    assert ask(swarm, "the hell").status_code == 200


def test_clients_that_hang_up_leave_nothing_behind_that_others_wait_for(swarm):
    """Six of them ask for the tokens of 80,000 special tokens, which took llama.cpp's own split 27 seconds each."""
    text = "<|im_start|>" * 80_000
    body = json.dumps({"content": text}).encode()
    for _ in range(6):
        connection = HTTPConnection("127.0.0.1", httpx.URL(swarm.url).port, timeout=HANG_S)
        connection.request("POST", "/tokenize", body, {"Content-Type": "application/json"})
        connection.close()
    reply = httpx.post(f"{swarm.url}/tokenize", json={"content": text}, timeout=HANG_S).json()
    assert len(reply["tokens"]) == 80_000
    assert len(set(reply["tokens"])) == 1
    assert ask(swarm, "the hell").status_code == 200


@pytest.mark.parametrize(
    "template", ["{% if a %}" * 10_000 + "{% endif %}" * 10_000, "{{ " + "(" * 100_000, "{{ 7 ** 99999999 }}"]
)
@pytest.mark.skipif(sys.platform == "win32", reason="Only the clock bounds a child there.")
def test_a_template_that_cannot_be_compiled_ends_serve_in_a_sentence(tmp_path: Path, template: str) -> None:
    model = write_tiny_gguf(tmp_path / "tiny.gguf", tokenizer="bpe", template=template)
    said = complaint("serve", model, *LOCAL, "--port", 0)
    assert "chat template" in said
    assert "Traceback" not in said
