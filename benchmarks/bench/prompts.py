"""Prompts of random tokens, and of words."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import numpy as np

from potluck.coordinator.text.tokenizer import Tokenizer

Prompt = list[int]

TEXT = Path(__file__).parents[2] / "tests" / "data" / "alice.txt"
LONG = 60
"""The fewest words of a paragraph that is to be translated."""

SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
"""What SmolLM2's template says where a chat says nothing."""

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


SOURCES = (
    '''def area(width, height):
    """Return the area of a rectangle."""
    if width < 0 or height < 0:
        raise ValueError("A rectangle has no negative sides.")
    return width * height


def volume(width, height, depth):
    """Return the volume of a box."""
    if depth < 0:
        raise ValueError("A box has no negative depth.")
    return area(width, height) * depth
''',
    '''def celsius(degrees):
    """Return the degrees Celsius for so many degrees Fahrenheit."""
    if degrees < -459.67:
        raise ValueError("Nothing is so cold.")
    return (degrees - 32) * 5 / 9


def fahrenheit(degrees):
    """Return the degrees Fahrenheit for so many degrees Celsius."""
    if degrees < -273.15:
        raise ValueError("Nothing is so cold.")
    return degrees * 9 / 5 + 32
''',
    '''def read_lines(path):
    """Return the lines of a file that are not empty."""
    with open(path, encoding="utf-8") as file:
        lines = [line.strip() for line in file]
    return [line for line in lines if line]


def write_lines(path, lines):
    """Write the lines to a file."""
    with open(path, "w", encoding="utf-8") as file:
        for line in lines:
            file.write(line + "\\n")
''',
)
"""What is to be copied. SmolLM2 copies code more faithfully than prose."""


def chats(tokenizer: Tokenizer) -> dict[str, list[Prompt]]:
    """For each kind of chat some prompts, in the form of SmolLM2's template."""
    paragraphs = [" ".join(one.split()) for one in TEXT.read_text("utf-8").split("\n\n")]
    texts = [one for one in paragraphs if len(one.split()) >= LONG][: len(CHAT)]
    asked = {
        "chat": CHAT,
        "code": CODE,
        "translation": [f"Translate into French:\n\n{text}" for text in texts],
        "copying": [f"Repeat this code without any changes:\n\n```python\n{source}```" for source in SOURCES],
    }
    return {kind: [_chat(tokenizer, question) for question in questions] for kind, questions in asked.items()}


def _chat(tokenizer: Tokenizer, question: str) -> Prompt:
    system = f"<|im_start|>system\n{SYSTEM}<|im_end|>\n"
    text = f"{system}<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"
    return tokenizer.encode(text, special=True, bos=False)
