"""Frames on the pipes between the coordinator and the children that read texts for it."""

import io

import pytest

from potluck.coordinator.text import pipe


def test_bodies_arrive_as_they_were_sent() -> None:
    stream = io.BytesIO()
    for body in (b"", b"hello"):
        pipe.send(stream, body)
    stream.seek(0)
    assert [pipe.receive(stream, 5), pipe.receive(stream, 5), pipe.receive(stream, 5)] == [b"", b"hello", None]


@pytest.mark.parametrize("sent", [b"", b"\0", bytes(7) + b"\5", bytes(7) + b"\5hell"])
def test_an_end_that_is_gone_sends_nothing(sent: bytes) -> None:
    assert pipe.receive(io.BytesIO(sent), 5) is None


@pytest.mark.parametrize("size", [6, 1 << 62, (1 << 64) - 1])
def test_a_length_beyond_the_bound_is_not_believed(size: int) -> None:
    with pytest.raises(ValueError, match=f"{size} bytes"):
        pipe.receive(io.BytesIO(size.to_bytes(8, "big")), 5)
