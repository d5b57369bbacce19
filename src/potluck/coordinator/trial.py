"""Whether a grammar is made in time, tried in a process of its own: llguidance can be neither stopped nor bounded.

Where many patterns of a schema meet, or for a large `multipleOf`, a hundred bytes take minutes and all memory.
"""

from __future__ import annotations

import subprocess
import sys

from llguidance import LLMatcher, LLTokenizer, TokenizerWrapper

LONGEST_S = 2.0
"""From the start of the process; the grammars of large schemas take some 0.2 s."""


class _Bytes:
    """A vocabulary of bytes, and an end: what a grammar takes hardly depends on it."""

    tokens = [*(bytes([byte]) for byte in range(256)), b""]
    special_token_ids = [256]
    eos_token_id, bos_token_id = 256, None

    def __call__(self, text: str) -> list[int]:
        return list(text.encode())


def is_quick(source: str) -> bool:
    """Whether it is known soon what the grammar is, or that it is none. Blocks for LONGEST_S at most."""
    try:
        subprocess.run(
            [sys.executable, "-m", "potluck.coordinator.trial"],
            input=source.encode(),
            stdout=subprocess.DEVNULL,
            timeout=LONGEST_S,
            check=True,
        )
    except (subprocess.TimeoutExpired, subprocess.CalledProcessError):
        return False
    return True


if __name__ == "__main__":
    LLMatcher(LLTokenizer(TokenizerWrapper(_Bytes())), sys.stdin.buffer.read().decode(), log_level=0)
