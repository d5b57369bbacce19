"""The frames on the pipes of a process that guesses."""

from __future__ import annotations

from io import BytesIO

import msgspec
import pytest

from potluck.wire.guessing import (
    LENGTH_BYTES,
    Broken,
    Follow,
    FromGuesser,
    Guessed,
    Leave,
    Loaded,
    Ping,
    Pong,
    ToGuesser,
    decode_from_guesser,
    framed,
    receive,
)

SAID: list[ToGuesser] = [Follow(1, 2, 3, [4, 5], 9), Leave(1), Ping()]


def test_what_is_said_comes_over_in_order() -> None:
    pipe = BytesIO(b"".join(map(framed, SAID)))
    assert [receive(pipe) for _ in SAID] == SAID
    assert receive(pipe) is None


@pytest.mark.parametrize("message", [Loaded(), Broken("It is broken."), Guessed(1, 2, 3), Pong()])
def test_what_the_process_says_comes_over(message: FromGuesser) -> None:
    frame = framed(message)
    assert int.from_bytes(frame[:LENGTH_BYTES], "big") == len(frame) - LENGTH_BYTES
    assert decode_from_guesser(frame[LENGTH_BYTES:]) == message


def test_a_frame_that_breaks_off_is_the_end() -> None:
    frame = framed(SAID[0])
    for size in range(len(frame)):
        assert receive(BytesIO(frame[:size])) is None


def test_what_is_no_message_is_an_error() -> None:
    with pytest.raises(msgspec.MsgspecError):
        receive(BytesIO(framed(Pong())))
