"""Prompts of random tokens, and of words."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import numpy as np

from potluck.coordinator.text.tokenizer import Tokenizer

Prompt = list[int]

TEXT = Path(__file__).parents[2] / "tests" / "data" / "alice.txt"
PARAGRAPH = 100
"""The fewest words of the texts that are to be copied or translated."""

CHAT = (
    "Why is the sky blue?",
    "Explain to a child how a bicycle stays upright.",
    "How do bees make honey?",
    "What was the Silk Road, and why did it matter?",
)
CODE = (
    "Write a Python function that returns the n-th Fibonacci number.",
    "Write a Python class for a bank account with deposit and withdraw.",
    "Write a Python function that sorts a list by bubble sort.",
    "Write a C function that reverses a string in place.",
)


class Prompts:
    """A source of prompts. No prompt comes twice, so that no node already holds a part of one."""

    def __init__(self, vocabulary: int, seed: int = 0) -> None:
        self._vocabulary = vocabulary
        self._random = np.random.default_rng(seed)

    def take(self, count: int, length: int) -> list[Prompt]:
        first = min(256, self._vocabulary // 4)  # the special tokens come first
        tokens = self._random.integers(first, self._vocabulary, (count, length)).tolist()
        return cast(list[Prompt], tokens)


def chats(tokenizer: Tokenizer) -> dict[str, list[Prompt]]:
    """For each kind of chat some prompts, in the form of SmolLM2's template."""
    texts = _texts(len(CHAT))
    asked = {
        "chat": CHAT,
        "code": CODE,
        "translation": [f"Translate into French:\n\n{text}" for text in texts],
        "copying": [f"Repeat the following text word for word:\n\n{text}" for text in texts],
    }
    return {kind: [_chat(tokenizer, question) for question in questions] for kind, questions in asked.items()}


def _chat(tokenizer: Tokenizer, question: str) -> Prompt:
    text = f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"
    return tokenizer.encode(text, special=True, bos=False)


def _texts(count: int) -> list[str]:
    """Pieces of the book, of whole paragraphs."""
    texts = [""]
    for paragraph in TEXT.read_text("utf-8").split("\n\n"):
        if len(texts[-1].split()) >= PARAGRAPH:
            texts.append("")
        texts[-1] = f"{texts[-1]} {' '.join(paragraph.split())}".strip()
    return texts[:count]
