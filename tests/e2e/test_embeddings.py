"""Texts as vectors, with the official client and real nodes."""

from __future__ import annotations

import numpy as np
import pytest

from potluck.engine.base import Segment


@pytest.mark.parametrize("length", [1, 64, 70, 300])
def test_a_vector_is_the_mean_of_the_unsplit_models_rows(tiny_swarm, tiny_unsplit, client_of, length):
    """Each row counts as much as any other, whatever its size."""
    tokens = np.random.default_rng(length).integers(0, 250, length, np.int32)
    tiny_unsplit._engine.close(1)
    [rows] = tiny_unsplit._engine.forward([Segment(1, 0, tokens, 4, 0)])
    mean = (rows / np.sqrt((rows.astype(np.float64) ** 2).mean(1, keepdims=True))).mean(0)
    client = client_of(tiny_swarm)
    # The client asks for base64 and decodes it, unless it is told otherwise.
    for form in ({}, {"encoding_format": "float"}):
        reply = client.embeddings.create(model="tiny", input=tokens.tolist(), **form)
        assert reply.usage.prompt_tokens == reply.usage.total_tokens == length
        assert np.array(reply.data[0].embedding) == pytest.approx(mean / np.linalg.norm(mean), abs=1e-6)


def test_each_input_has_the_vector_that_it_has_alone(tiny_swarm, client_of):
    client = client_of(tiny_swarm)
    texts = ["the potluck", "hello", "the potluck " * 60, "thing"]
    together = client.embeddings.create(model="tiny", input=texts).data
    for index, text in enumerate(texts):
        [alone] = client.embeddings.create(model="tiny", input=text).data
        assert together[index].index == index
        assert together[index].embedding == alone.embedding
        [short] = client.embeddings.create(model="tiny", input=text, dimensions=8).data
        assert len(short.embedding) == 8
        assert np.linalg.norm(short.embedding) == pytest.approx(1)


def test_texts_that_mean_the_same_are_nearer_than_others(client, name):
    pairs = [
        ("The court sentenced the thief to prison.", "A judge sent the robber to jail."),
        ("The stock market fell sharply on Monday.", "Shares dropped a lot at the start of the week."),
        ("My dog loves to chase squirrels.", "The puppy runs after small animals in the park."),
        ("Drink plenty of water when it is hot.", "Stay hydrated in summer."),
    ]
    data = client.embeddings.create(model=name, input=[text for pair in pairs for text in pair]).data
    vectors = np.array([one.embedding for one in data])
    near = vectors[0::2] @ vectors[1::2].T
    assert near.argmax(axis=1).tolist() == [0, 1, 2, 3]
