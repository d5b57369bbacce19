import pytest
from hypothesis import given
from hypothesis import strategies as st

from potluck.errors import WireError
from potluck.wire import parts as module
from potluck.wire.codec import decode_from_coordinator, decode_from_node
from potluck.wire.messages import MOST_STATE, Exported, Import
from potluck.wire.parts import Parts, state_frames


@given(state=st.binary(max_size=50), size=st.integers(1, 20))
def test_what_is_cut_into_parts_comes_together_again(state: bytes, size: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_PART", size)
        frames = list(state_frames(Import, 3, state))
    assert len(frames) == max(1, -(-len(state) // size))
    parts = Parts()
    wholes = []
    for frame in frames:
        message, payload = decode_from_coordinator(frame)
        assert isinstance(message, Import)
        assert message.session == 3
        wholes.append(parts.add(message.left, payload))
    assert wholes == [None] * (len(frames) - 1) + [state]


def test_nothing_is_one_empty_part() -> None:
    [frame] = state_frames(Exported, 3, b"")
    message, payload = decode_from_node(frame)
    assert message == Exported(3, 0)
    assert Parts().add(0, payload) == b""


@pytest.mark.parametrize(
    "parts",
    [
        [(-1, b"ab")],
        [(2, b"")],
        [(MOST_STATE, b"a")],
        [(4, b"ab"), (3, b"ab")],
        [(4, b"ab"), (1, b"ab")],
        [(4, b"ab"), (4, b"")],
    ],
    ids=["negative", "empty", "too much", "too many left", "too few left", "no progress"],
)
def test_parts_that_do_not_follow_are_refused(parts: list[tuple[int, bytes]]) -> None:
    *good, (left, bad) = parts
    collected = Parts()
    for each, part in good:
        assert collected.add(each, part) is None
    with pytest.raises(WireError, match="does not follow"):
        collected.add(left, bad)
