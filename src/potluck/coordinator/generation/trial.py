"""Tries in a separate process whether a grammar is made in time, because llguidance can be neither stopped nor bounded.

Where many patterns of a schema meet, or for a large `multipleOf`, a hundred bytes can take minutes and all memory.
"""

from __future__ import annotations

import subprocess
import sys

from llguidance import LLMatcher, LLTokenizer, TokenizerWrapper

from potluck.platform import OUT_OF_MEMORY, bound_memory, processor_bound, step_back

_LONGEST_CPU_S = 1.0
"""The processor seconds in which a grammar must be made. Those of large schemas take about 0.2 s."""

_MEMORY = 1 << 30
"""The bytes that it may take. Those of large schemas take a tenth."""

LONGEST_S = 10.0
"""The seconds by the clock, so that a busy machine does not refuse an honest schema."""


class _Bytes:
    """A vocabulary of bytes, and an end, because the time that a grammar takes hardly depends on the vocabulary."""

    tokens = [*(bytes([byte]) for byte in range(256)), b""]
    special_token_ids = [256]
    eos_token_id, bos_token_id = 256, None

    def __call__(self, text: str) -> list[int]:
        return list(text.encode())


def is_quick(source: str) -> bool | None:
    """Whether it is soon known what the grammar is, or that it is not one; None if only the clock says no.

    It blocks for seconds at most.
    """
    command = [sys.executable, "-m", __name__]
    try:
        done = subprocess.run(
            command,
            input=source.encode(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=LONGEST_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return None
    return done.returncode == 0


def _try(source: str) -> None:
    step_back()
    bound_memory(_MEMORY)
    tokenizer = LLTokenizer(TokenizerWrapper(_Bytes()))
    with processor_bound(_LONGEST_CPU_S):
        LLMatcher(tokenizer, source, log_level=0)


if __name__ == "__main__":
    try:
        _try(sys.stdin.buffer.read().decode())
    except MemoryError:
        sys.exit(OUT_OF_MEMORY)
