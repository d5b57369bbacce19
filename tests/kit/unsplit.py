"""The unsplit model, to compare the answers of swarms with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import openai

from potluck.coordinator.model_choice import footprint
from potluck.coordinator.text.opening import open_tokenizer
from potluck.engine.base import Segment
from potluck.engine.llamacpp import LlamaCppEngine
from potluck.models.sources import open_model
from potluck.node.candidates import best_candidates
from potluck.types import Attention, Capacity, EngineKind, Quantize, Span

CHUNK = 512


def memory_for(path: Path, span: Span, context: int = 4096) -> int:
    """Bytes: just enough for these layers, and for one session of this length."""
    return footprint(open_model(path), EngineKind.LLAMACPP, Quantize.NONE, context).of(span)


class Unsplit:
    """The whole model in one engine of this process."""

    def __init__(self, model: Path, context: int = 4096) -> None:
        manifest = open_model(model)
        self.tokenizer = open_tokenizer(model)
        self._engine = LlamaCppEngine(
            model,
            span=Span(0, manifest.layers - 1),
            layers=manifest.layers,
            attention=Attention.EXACT,
            capacity=Capacity(1, context, CHUNK),
            threads=1,
        )

    def encode(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, special=True, bos=True)

    def _feed(self, position: int, tokens: list[int], wanted: int = 1) -> np.ndarray:
        data = np.array(tokens, np.int32)
        return self._engine.forward([Segment(1, position, data, self._engine.span.last, wanted)])[0]

    def greedy(self, prompt: list[int], count: int, ignore_eos: bool = False) -> list[int]:
        """So many tokens, or up to the one that ends the answer, which is left out."""
        stops = frozenset() if ignore_eos else self.tokenizer.stop_ids
        self._engine.close(1)
        [logits] = self._feed(0, prompt)
        answer: list[int] = []
        while (token := int(logits.argmax())) not in stops and len(answer) < count:
            [logits] = self._feed(len(prompt) + len(answer), [token])
            answer.append(token)
        return answer

    def text(self, prompt: list[int], count: int) -> str:
        return b"".join(map(self.tokenizer.piece, self.greedy(prompt, count))).decode("utf-8", "replace")

    def score(self, tokens: list[int]) -> list[float]:
        """Log-probability of each token but the first, given those before it."""
        self._engine.close(1)
        parts = [(start, tokens[start : start + CHUNK]) for start in range(0, len(tokens), CHUNK)]
        rows = [row for start, part in parts for row in self._feed(start, part, len(part))]
        return [chosen_logprob(row, token) for row, token in zip(rows, tokens[1:], strict=False)]

    def close(self) -> None:
        self._engine.unload()


def chosen_logprob(logits: np.ndarray, token: int) -> float:
    ids, logprobs, _ = best_candidates(logits, 1, [token])
    return float(logprobs[ids.tolist().index(token)])


def check_greedy(client: openai.OpenAI, model: str, unsplit: Unsplit) -> None:
    """A greedy answer and its prompt have the log-probabilities that the unsplit model gives them, bit for bit."""
    prompt = unsplit.encode("the potluck")
    options: dict[str, Any] = {
        "max_tokens": 40,
        "temperature": 0,
        "logprobs": 0,
        "echo": True,
        "extra_body": {"ignore_eos": True},
    }
    answer = client.completions.create(model=model, prompt=prompt, **options).choices[0]
    tokens = [*prompt, *unsplit.greedy(prompt, 40, ignore_eos=True)]
    assert answer.logprobs.token_logprobs == [None, *unsplit.score(tokens)]
