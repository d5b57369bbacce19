"""Several frames in one message."""

from __future__ import annotations

import struct
from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from potluck.errors import WireError
from potluck.wire.bundles import MOST_FRAMES, Unbundled, bundle, unbundle

FRAMES = st.lists(st.binary(min_size=1, max_size=40).map(lambda tail: b"\x05\0\0\0" + tail), min_size=1, max_size=600)


@given(FRAMES)
def test_what_is_bundled_comes_out_in_order(frames: list[bytes]) -> None:
    waiting, received = deque(frames), Unbundled()
    messages = 0
    while waiting:
        received.add(bundle(waiting))
        messages += 1
    assert [received.pop() for _ in frames] == frames
    assert not received
    assert messages == -(-len(frames) // MOST_FRAMES)


def test_a_frame_alone_is_no_bundle() -> None:
    frame = b"\x05\0\0\0frame"
    assert bundle(deque([frame])) == frame
    assert list(unbundle(frame)) == [frame]


def test_a_bundle_does_not_grow_beyond_its_bound() -> None:
    long, short = b"\x05" + bytes(1 << 20), b"\x05" + bytes(9)
    waiting = deque([short, long, short, short])
    assert [len(list(unbundle(bundle(waiting)))) for _ in range(3)] == [1, 1, 2]


MARK = bytes(4)


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (MARK, "is empty"),
        (MARK + b"\x01", "ends within a length"),
        (MARK + struct.pack("<I", 0), "shorter than its frames"),
        (MARK + struct.pack("<I", 2) + b"x", "shorter than its frames"),
        (MARK + struct.pack("<I", 1 << 31) + b"x", "shorter than its frames"),
        (MARK + (struct.pack("<I", 1) + b"x") * (MOST_FRAMES + 1), f"more than {MOST_FRAMES} frames"),
    ],
)
def test_a_malformed_bundle_is_refused(message: bytes, reason: str) -> None:
    with pytest.raises(WireError, match=reason):
        unbundle(message)


@given(st.binary(max_size=60).map(lambda tail: MARK + tail))
def test_any_bytes_are_frames_or_refused(message: bytes) -> None:
    try:
        frames = list(unbundle(message))
    except WireError:
        return
    assert sum(4 + len(frame) for frame in frames) == len(message) - 4


def test_frames_that_were_not_taken_yet_come_together() -> None:
    received = Unbundled()
    received.add(bundle(deque([b"\x05one", b"\x05two", b"\x05three"])))
    assert received.pop() == b"\x05one"
    assert received.pop_all() == [b"\x05two", b"\x05three"]
    assert not received
