"""Tries in a separate process whether a grammar is made in time, because llguidance can be neither stopped nor bounded.

Where many patterns of a schema meet, or for a large `multipleOf`, a hundred bytes can take minutes and all memory.
"""

from __future__ import annotations

import subprocess
import sys
from contextlib import suppress

from llguidance import LLMatcher, LLTokenizer, TokenizerWrapper

_LONGEST_CPU_S = 2
"""The processor seconds of the process, including its start. The grammars of large schemas take about 0.2 s."""

LONGEST_S = 10.0
"""The seconds by the clock, so that a busy machine does not refuse an honest schema."""


class _Bytes:
    """A vocabulary of bytes, and an end, because the time that a grammar takes hardly depends on the vocabulary."""

    tokens = [*(bytes([byte]) for byte in range(256)), b""]
    special_token_ids = [256]
    eos_token_id, bos_token_id = 256, None

    def __call__(self, text: str) -> list[int]:
        return list(text.encode())


def is_quick(source: str) -> bool:
    """Whether it is soon known what the grammar is, or that it is not one. Blocks for seconds at most."""
    try:
        subprocess.run(
            [sys.executable, "-m", __name__],
            input=source.encode(),
            stdout=subprocess.DEVNULL,
            timeout=LONGEST_S,
            check=True,
        )
    except (subprocess.TimeoutExpired, subprocess.CalledProcessError):
        return False
    return True


def _bound_processor_time() -> None:
    with suppress(ImportError):  # Windows: there the clock alone counts
        import resource

        resource.setrlimit(resource.RLIMIT_CPU, (_LONGEST_CPU_S, _LONGEST_CPU_S))


if __name__ == "__main__":
    _bound_processor_time()
    LLMatcher(LLTokenizer(TokenizerWrapper(_Bytes())), sys.stdin.buffer.read().decode(), log_level=0)
