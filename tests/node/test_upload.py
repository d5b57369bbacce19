import asyncio
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kit.runner import run_leaping
from potluck.node import upload as module
from potluck.node.upload import Bucket, PacedLink, Upload
from potluck.wire.link import MemoryLink


@given(
    st.integers(1, 10**6),
    st.lists(st.tuples(st.floats(0, 10), st.integers(1, 10**7)), min_size=1, max_size=30),
)
def test_what_is_let_through_fits_the_rate(rate: int, asked: list[tuple[float, int]]) -> None:
    bucket, now, sent = Bucket(rate), 0.0, []
    for pause, nbytes in asked:
        now += pause
        now += bucket.take(nbytes, now)  # it is sent then, and the next one asks after it
        sent.append((now, nbytes))
    for at, (begin, _) in enumerate(sent):
        for end, (when, _) in enumerate(sent[at:], at):
            before = sum(nbytes for _, nbytes in sent[at:end])  # the last piece is never cut
            assert before <= (when - begin + 0.1) * rate * 1.000001


def test_a_line_that_is_not_full_waits_for_nothing_and_is_not_saved_up_for() -> None:
    bucket = Bucket(1000)
    assert [bucket.take(50, float(second)) for second in range(5)] == [0.0] * 5
    assert bucket.take(1000, 1000.0) == 0.0
    assert bucket.take(1000, 1000.0) == pytest.approx(0.9)
    assert bucket.take(1, 1000.0) == pytest.approx(1.9)


def test_frames_keep_their_order_and_take_their_time(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        loop = asyncio.get_running_loop()
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=loop.time))
        link, theirs = MemoryLink.pair()
        paced = PacedLink(link, Upload(1e6))
        begin = loop.time()
        frames = [bytes([number + 1]) * (1 if number % 2 else 50_000) for number in range(20)]
        await asyncio.gather(*map(paced.send, frames))
        assert loop.time() - begin == pytest.approx(0.4, abs=0.01)  # 0.5 MB at 1 MB/s, but for the burst
        assert [await theirs.receive() for _ in frames] == frames

    run_leaping(test())
