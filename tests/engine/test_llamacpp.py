"""The llama.cpp engine on tiny random models: its contract, and both taps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from kit.tiny_gguf import EXACT, write_tiny_gguf
from potluck.engine import tap
from potluck.engine.base import Segment
from potluck.engine.llamacpp import LlamaCppEngine
from potluck.engine.probe import Trial, survives
from potluck.errors import CapacityError, EngineError
from potluck.models.sources import local_source, open_model
from potluck.models.spanfile import write_span_file
from potluck.models.spans import plan_span
from potluck.types import Attention, Capacity, Span

LAYERS = 4
TOKENS = np.arange(1, 21, dtype=np.int32)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return write_tiny_gguf(tmp_path_factory.mktemp("model") / "tiny.gguf", "llama", layers=LAYERS)


def span_file(model: Path, span: Span) -> Path:
    path = model.with_name(f"{span}.gguf")
    write_span_file(path, *plan_span(open_model(model), span), local_source(model), lambda _: None)
    return path


def load(model: Path, span: Span, capacity: Capacity | None = None) -> LlamaCppEngine:
    capacity = capacity or Capacity(sessions=4, positions=256, rows=64)
    return Trial(str(span_file(model, span)), span, LAYERS, Attention.EXACT, 1, True).load(capacity)


@pytest.fixture
def whole(model):
    engine = load(model, Span(0, LAYERS - 1))
    yield engine
    engine.unload()


@pytest.fixture
def middle(model):
    engine = load(model, Span(1, 2))
    yield engine
    engine.unload()


def rows(engine: LlamaCppEngine, count: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((count, engine.hidden_size)).astype(np.float32)


def run(engine: LlamaCppEngine, session: int, position: int, data: np.ndarray, last: int | None = None) -> np.ndarray:
    [output] = engine.forward([Segment(session, position, data, engine.span.last if last is None else last, 1)])
    return output


def test_a_stage_that_stops_early_gives_what_a_shorter_span_gives(model, middle):
    data = rows(middle, 5)
    short = load(model, Span(1, 1))
    assert np.array_equal(run(middle, 1, 0, data, last=1), run(short, 1, 0, data))
    short.unload()


def test_the_python_tap_gives_what_the_compiled_one_gives(model, middle, monkeypatch):
    assert isinstance(middle._tap, tap.CompiledTap)  # this machine has a compiler
    monkeypatch.setattr(tap, "compiled_library", lambda: None)
    other = load(model, Span(1, 2))
    assert isinstance(other._tap, tap.PythonTap)
    data = rows(middle, 7)
    assert np.array_equal(run(middle, 1, 0, data), run(other, 1, 0, data))
    other.unload()


def test_a_truncated_session_goes_on_as_if_the_rest_had_never_been(whole):
    expected = run(whole, 1, 0, TOKENS[:10])
    run(whole, 2, 0, TOKENS[:6])
    run(whole, 2, 6, TOKENS[12:])
    whole.truncate(2, 6)
    assert whole.length(2) == 6
    assert np.array_equal(run(whole, 2, 6, TOKENS[6:10]), expected)


def test_a_closed_session_begins_anew_and_leaves_its_room(whole):
    expected = run(whole, 1, 0, TOKENS)
    for session in range(2, 40):  # many more than fit at once
        assert np.array_equal(run(whole, session, 0, TOKENS), expected)
        whole.close(session)
    assert whole.length(2) == 0


def test_a_full_cache_refuses_and_changes_nothing(model):
    engine = load(model, Span(0, LAYERS - 1), Capacity(sessions=4, positions=256, rows=256))
    run(engine, 1, 0, np.ones(200, np.int32))
    with pytest.raises(CapacityError, match="no room for 100 more"):
        run(engine, 1, 200, np.ones(100, np.int32))
    assert engine.length(1) == 200
    assert run(engine, 1, 200, TOKENS).shape == (1, engine.vocabulary)
    engine.unload()


def answer(engine: LlamaCppEngine, session: int, tokens: int, between: Callable[[int], None] = lambda _: None) -> bytes:
    """The logits of so many greedy tokens, `between` being called before each."""
    logits = [run(engine, session, 0, TOKENS[:5])]
    for step in range(1, tokens):
        between(step)
        logits.append(run(engine, session, 4 + step, logits[-1].argmax(axis=1).astype(np.int32)))
    return np.stack(logits).tobytes()


def test_a_session_that_outlives_others_gets_the_bits_that_it_gets_alone(whole):
    alone = answer(whole, 1, 60)
    whole.close(1)
    run(whole, 2, 0, TOKENS)

    def come_and_go(step: int) -> None:
        """Others begin and end all the time: more cells and sessions than there are, so that they are moved."""
        whole.close(step + 1)
        run(whole, step + 2, 0, TOKENS)

    assert answer(whole, 1000, 60, come_and_go) == alone


def test_an_idle_session_gives_its_cells_up_and_gets_the_bits_that_it_gets_alone(model, monkeypatch):
    """While others come and go it is stored outside of the cache, and put back when it goes on."""
    monkeypatch.setattr("potluck.engine.session_table._MANY_CELLS", 8)
    engine = load(model, Span(0, LAYERS - 1), Capacity(sessions=4, positions=511, rows=64))  # too few for slots
    alone = answer(engine, 1, 20)
    engine.close(1)
    stored: list[bool] = []

    def pause(step: int) -> None:
        if step == 10:
            for other in range(100):
                run(engine, 100 + other, 0, TOKENS)
                engine.close(100 + other)
            stored.append(engine._cache.table.stored(2) is not None)

    assert answer(engine, 2, 20, pause) == alone
    assert stored == [True]
    engine.close(2)
    for session in (1, 3):
        run(engine, session, 0, TOKENS)
        for other in range(100):
            run(engine, 100 + other, 0, TOKENS)
            engine.close(100 + other)
    assert all(engine._cache.table.stored(session) is not None for session in (1, 3))
    engine.truncate(1, 6)
    engine.close(3)
    assert (engine.length(1), engine.length(3)) == (6, 0)
    expected = run(engine, 5, 0, TOKENS[:10])
    assert np.array_equal(run(engine, 1, 6, TOKENS[6:10]), expected)
    engine.unload()


def test_a_stored_session_is_cut_back_though_the_cache_is_full_of_ended_ones(model):
    engine = load(model, Span(0, LAYERS - 1), Capacity(sessions=3, positions=512, rows=64))
    expected = run(engine, 1, 0, TOKENS[:10])
    engine.close(1)
    run(engine, 1, 0, TOKENS)
    run(engine, 2, 0, TOKENS)
    for step in range(100):
        run(engine, 2, 20 + step, TOKENS[:1])
    engine._cache.arrange()  # session 1 is idle by now
    assert engine._cache.table.stored(1) is not None
    for position in range(0, 200, 20):
        run(engine, 3, position, TOKENS)
    engine.close(3)
    for position in range(0, 180, 20):
        run(engine, 4, position, TOKENS)
    assert not engine._cache.table._free
    assert engine._cache.table._left_cells == 200
    engine.truncate(1, 6)
    assert np.array_equal(run(engine, 1, 6, TOKENS[6:10]), expected)
    engine.unload()


def test_whatever_mixture_runs_in_slots_each_session_gets_the_bits_that_it_gets_alone(tmp_path):
    """Groups change, sessions end, pause and come back, and some grow so long that the cells are dealt anew."""
    path = write_tiny_gguf(tmp_path / "tiny.gguf", "llama", layers=LAYERS, context=1024, dtype=EXACT)
    engine = load(path, Span(0, LAYERS - 1), Capacity(sessions=8, positions=2048, rows=64))
    draw = np.random.default_rng(5)
    tokens = draw.integers(1, 200, (12, 700)).astype(np.int32)
    alone = [alone_in(engine, tokens[session]) for session in range(12)]
    held, shapes, cut = dict.fromkeys(range(12), 0), set(), 0
    for step in range(400):
        group = [int(one) for one in draw.choice(12 if step % 40 < 4 else 5, 3, replace=False)]
        for one in [one for one in held if held[one] and one not in group]:
            if engine.sessions > 5:
                engine.truncate(one, 0)
                held[one] = 0
        counts = [int(draw.integers(2, 21)) if draw.random() < 0.3 else 1 for _ in group]
        parts = {one: tokens[one, held[one] : held[one] + count] for one, count in zip(group, counts, strict=True)}
        batch = [Segment(one, held[one], part, LAYERS - 1, 1) for one, part in parts.items()]
        for segment, output in zip(batch, engine.forward(batch), strict=True):
            held[segment.session] += segment.rows
            assert np.array_equal(output[0], alone[segment.session][held[segment.session] - 1]), step
        shapes.add(engine._cache.table.shape)
        for one in group:
            if held[one] > 650 or draw.random() < 0.03:
                held[one], cut = held[one] // 2, cut + 1
                engine.truncate(one, held[one])
    assert len(shapes) > 1
    assert cut > 10
    engine.unload()


def alone_in(engine: LlamaCppEngine, tokens: np.ndarray) -> np.ndarray:
    """The logits of each of these tokens when nothing else is computed."""
    logits = []
    for begin in range(0, len(tokens), 50):
        part = tokens[begin : begin + 50]
        logits += engine.forward([Segment(1000, begin, part, LAYERS - 1, len(part))])
    engine.close(1000)
    return np.concatenate(logits)


def test_a_batch_that_cannot_be_decoded_leaves_its_sessions_as_they_were(model, monkeypatch):
    engine = load(model, Span(0, LAYERS - 1), Capacity(sessions=4, positions=256, rows=64))
    expected = run(engine, 1, 0, TOKENS)
    engine.close(1)
    run(engine, 1, 0, TOKENS[:10])
    for step in range(100):
        run(engine, 9, step, TOKENS[:1])
    with monkeypatch.context() as patch:
        patch.setattr("potluck.engine.context.Context.decode", lambda *_: -3)
        batch = [Segment(session, 0, TOKENS, LAYERS - 1, 1) for session in (2, 3)]
        with pytest.raises(EngineError, match="code -3"):
            engine.forward([*batch, Segment(1, 10, TOKENS[10:], LAYERS - 1, 1)])
    assert [engine.length(session) for session in (1, 2, 3, 9)] == [10, 0, 0, 100]
    assert np.array_equal(run(engine, 1, 10, TOKENS[10:]), expected)
    engine.unload()


@pytest.mark.parametrize("failing", [1, 2])
def test_when_one_group_of_a_batch_fails_nothing_has_changed(model, monkeypatch, failing):
    """Segments of two lengths are computed one after the other."""
    engine = load(model, Span(0, LAYERS - 1), Capacity(sessions=4, positions=1024, rows=64))
    assert engine._cache.has_slots
    expected = run(engine, 1, 0, TOKENS)
    engine.close(1)
    run(engine, 1, 0, TOKENS[:10])
    codes = iter([0] * (failing - 1) + [-3])
    decode = engine._cache.context.decode
    with monkeypatch.context() as patch:
        patch.setattr(engine._cache.context, "decode", lambda batch: next(codes) or decode(batch))
        with pytest.raises(EngineError, match="code -3"):
            engine.forward([Segment(1, 10, TOKENS[10:], LAYERS - 1, 1), Segment(2, 0, TOKENS[:7], LAYERS - 1, 1)])
    assert [engine.length(session) for session in (1, 2)] == [10, 0]
    assert engine._cache.table.in_cache() == [1]
    assert np.array_equal(run(engine, 1, 10, TOKENS[10:]), expected)
    engine.unload()


def test_more_sessions_than_the_capacity_are_refused(whole):
    for session in range(4):
        run(whole, session, 0, TOKENS)
    with pytest.raises(CapacityError, match="All 4 sessions"):
        run(whole, 9, 0, TOKENS)


@pytest.mark.parametrize(
    ("segment", "reason"),
    [
        (Segment(1, 3, TOKENS, 3, 1), "does not follow the 0 held"),
        (Segment(1, 0, TOKENS, 7, 1), "cannot stop after layer 7"),
        (Segment(1, 0, TOKENS[:0], 3, 0), "1 to 64 rows"),
        (Segment(1, 0, np.ones(65, np.int32), 3, 1), "1 to 64 rows"),
        (Segment(1, 0, np.array([-1], np.int32), 3, 1), "outside the vocabulary"),
        (Segment(1, 0, np.array([10**6], np.int32), 3, 1), "outside the vocabulary"),
    ],
)
def test_a_malformed_batch_is_refused_and_changes_nothing(whole, segment, reason):
    with pytest.raises(EngineError, match=reason):
        whole.forward([segment])
    assert whole.length(1) == 0
    assert run(whole, 1, 0, TOKENS).shape == (1, whole.vocabulary)


def test_hidden_rows_of_another_width_are_refused(middle):
    with pytest.raises(EngineError, match="Hidden rows of 64 values"):
        run(middle, 1, 0, np.zeros((2, 63), np.float32))


def test_threads_do_not_change_a_bit(whole):
    expected = run(whole, 1, 0, TOKENS)
    whole.use_cores((0, 1))
    assert np.array_equal(run(whole, 2, 0, TOKENS), expected)
    whole.rest()
    assert np.array_equal(run(whole, 3, 0, TOKENS), expected)


def test_a_child_tells_whether_a_span_survives(model, tmp_path):
    path = str(span_file(model, Span(1, 2)))
    told: list[float] = []
    assert survives(Trial(path, Span(1, 2), LAYERS, Attention.EXACT, 1, True), told.append)
    assert (told, told[-1]) == (sorted(told), 1.0)
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF, but no more")
    assert not survives(Trial(str(broken), Span(1, 2), LAYERS, Attention.EXACT, 1, True))


def moved(engine: LlamaCppEngine, other: LlamaCppEngine, session: int) -> None:
    other.restore(session, engine.export(session))


@pytest.mark.parametrize("stored", [False, True])
def test_a_moved_session_goes_on_as_if_it_had_always_been_there(model, middle, stored):
    heir = load(model, Span(1, 2))
    try:
        data = rows(middle, 24)
        run(middle, 1, 0, data[:20])
        if stored:
            middle._cache.table.store(1, middle._cache._save(1))
        run(heir, 5, 0, rows(heir, 3))  # others are there already
        moved(middle, heir, 1)
        assert heir.length(1) == 20
        assert (run(heir, 1, 20, data[20:]) == run(middle, 1, 20, data[20:])).all()
        assert heir.sessions == 2
    finally:
        heir.unload()


def test_a_session_that_is_restored_takes_the_place_of_what_was_held(model, middle):
    data = rows(middle, 12)
    run(middle, 1, 0, data[:10])
    state = middle.export(1)
    expected = run(middle, 1, 10, data[10:])
    middle.truncate(1, 4)
    middle.restore(1, state)
    assert (run(middle, 1, 10, data[10:]) == expected).all()


def test_a_full_cache_takes_no_moved_session(model, middle):
    run(middle, 1, 0, rows(middle, 20))
    small = load(model, Span(1, 2), Capacity(sessions=4, positions=256, rows=64))
    try:
        for session in range(2, 6):
            run(small, session, 0, rows(small, 60))
        with pytest.raises(CapacityError):
            moved(middle, small, 1)
        assert small.sessions == 4
        small.close(3)
        moved(middle, small, 1)
        assert small.length(1) == 20
    finally:
        small.unload()


def test_the_cells_of_another_span_are_refused(model, middle, whole):
    run(whole, 1, 0, TOKENS)
    with pytest.raises(EngineError, match="another span"):
        moved(whole, middle, 1)
    assert middle.sessions == 0


def test_bytes_that_llama_cpp_would_not_write_are_refused(middle):
    run(middle, 1, 0, rows(middle, 8))
    state = middle.export(1)
    words = 4 * (4 + 3 * 8 + 2)  # the frame before the first tensor
    for place in [*range(0, words, 4), words, words + 4]:
        forged = bytearray(state)
        forged[place] ^= 0x41
        with pytest.raises(EngineError):
            middle.restore(2, bytes(forged))
    for other in (b"", state[:-1], state + b"\0", state[:words], bytes(len(state))):
        with pytest.raises(EngineError):
            middle.restore(2, other)
    assert (middle.sessions, middle.length(2)) == (1, 0)


def test_only_what_is_there_is_exported(middle):
    with pytest.raises(EngineError, match="Session 9 is not here"):
        middle.export(9)
