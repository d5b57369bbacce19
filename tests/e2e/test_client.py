"""`connect`: what OpenAI's client cannot say, against real nodes."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

import numpy as np
import pytest

import potluck
from kit.unsplit import Unsplit
from potluck.client import Client
from potluck.engine.base import Segment
from potluck.errors import PotluckError
from potluck.local import LocalSwarm

TOKENS = [*range(40, 140)]


@pytest.fixture
def connected(tiny_swarm: LocalSwarm) -> Client:
    return potluck.connect(tiny_swarm.url)


def test_the_swarms_status(connected: Client, tiny: Path) -> None:
    assert connected.model == tiny.stem
    assert connected.status()["layers"] == 6


def test_a_chat_and_who_served_it(connected: Client) -> None:
    messages = [{"role": "user", "content": "hello"}]
    answer = connected.chat(messages, priority="batch", max_tokens=3, temperature=0, ignore_eos=True)
    assert answer["usage"]["completion_tokens"] == 3
    names = [node["name"] for node in connected.status()["nodes"]]
    spans = ("0-1", "2-3", "4-5")
    assert connected.served_by(answer) == [f"{name}: layers {span}" for name, span in zip(names, spans, strict=True)]


def test_a_streamed_chat_and_how_far_its_prompt_is_read(connected: Client) -> None:
    told: list[tuple[int, int]] = []
    messages = [{"role": "user", "content": "the potluck " * 60}]
    answer = connected.stream_chat(connected.model, messages, lambda done, total: told.append((done, total)))
    assert next(answer)
    assert told == sorted(set(told))
    assert told[-1][0] == told[-1][1] > 64
    assert isinstance(answer, Generator)
    answer.close()


def test_loglikelihoods_are_those_of_the_unsplit_model(connected: Client, tiny_unsplit: Unsplit) -> None:
    assert connected.loglikelihood(TOKENS) == tiny_unsplit.score(TOKENS)


def test_hidden_rows_are_those_of_the_unsplit_model(connected: Client, tiny_unsplit: Unsplit) -> None:
    tiny_unsplit._engine.close(1)
    [rows] = tiny_unsplit._engine.forward([Segment(1, 0, np.array(TOKENS, np.int32), 3, 0)])
    assert (connected.hidden_states(TOKENS, 3) == rows).all()


def test_a_text_as_a_prompt(connected: Client, tiny_unsplit: Unsplit) -> None:
    assert connected.tokenize("hello") == tiny_unsplit.encode("hello")


def test_errors_are_sentences(connected: Client) -> None:
    with pytest.raises(PotluckError, match=r"^layer must lie between 0 and 4, not 9: .*\.$"):
        connected.hidden_states(TOKENS, 9)
    with pytest.raises(PotluckError, match="is not a coordinator's URL"):
        potluck.connect("ftp://example.org")
