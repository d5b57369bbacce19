"""Damages the bytes of a file in the ways in which files are damaged by accident or on purpose."""

from __future__ import annotations

import struct
from collections.abc import Sequence

from hypothesis import strategies as st

_NUMBERS = (0, 1, 2, 9, 255, 1 << 16, 1 << 31, (1 << 32) - 1, 1 << 40, 1 << 60, (1 << 64) - 1)

Damage = tuple[int, int, bool]

damages = st.lists(st.tuples(st.integers(0, 1 << 13) | st.integers(0), st.integers(0, 255), st.booleans()), max_size=4)
"""Places, most of them near the beginning, and what happens there: a changed byte, or another 64-bit number."""
shares = st.just(1.0) | st.floats(0, 1)
"""The part of a file that is left."""


def damaged(content: bytes, damages: Sequence[Damage], share: float) -> bytes:
    changed = bytearray(content)
    for where, what, is_number in damages:
        place = where % len(changed)
        if is_number:
            changed[place : place + 8] = struct.pack("<Q", _NUMBERS[what % len(_NUMBERS)])
        else:
            changed[place] = what
    return bytes(changed[: int(len(changed) * share)])
