"""Each architecture of the table computes the same bits at every cut as llama.cpp does without one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from kit.cut_proof import (
    CAPACITY,
    FORGETTING,
    MOVING,
    PROMPT_AND_TOKENS,
    SHARED,
    Reference,
    engine_of,
    follow,
    rows_of,
    shared_cells,
    span_engine,
)
from kit.pipeline import Unsplit, closing
from kit.tiny_architectures import CASES, write_case
from potluck.engine.base import Segment
from potluck.engine.probe import measure
from potluck.errors import CapacityError, EngineError, SpanError
from potluck.models.architectures import TABLE, Recurrent
from potluck.models.sources import open_model
from potluck.models.spans import cuts_of, plan_span
from potluck.types import Span

pytestmark = pytest.mark.slow

WITH_EXPERTS = [name for name, metadata in CASES.items() if "expert_count" in metadata]
MOVABLE = [name for name in CASES if TABLE[name].recurrent is Recurrent.NONE and "indexer" not in str(CASES[name])]


def test_every_architecture_that_is_not_refused_is_proved_here() -> None:
    assert CASES.keys() == {name for name, row in TABLE.items() if not row.refusal}
    assert len(CASES) >= 30
    assert len(WITH_EXPERTS) >= 12


@pytest.mark.parametrize("architecture", CASES)
def test_every_span_computes_what_the_unsplit_model_computes(architecture: str, tmp_path: Path) -> None:
    """So every cut into any number of allowed spans does."""
    path = write_case(tmp_path / "tiny.gguf", architecture)
    forgets = TABLE[architecture].recurrent is Recurrent.NONE
    script = [*PROMPT_AND_TOKENS, *(FORGETTING if forgets else []), *SHARED]
    script += MOVING if architecture in MOVABLE else []
    cuts = cuts_of(open_model(path))
    reference = Reference(path, cuts.points, script)
    assert len(list(cuts.spans())) >= 3
    assert np.isfinite(reference.at(cuts.layers)).all()
    for span in cuts.spans():
        with span_engine(path, span, tmp_path) as engine:
            rows = follow(engine, script, reference.at(span.first), span.last)
        assert np.array_equal(rows, reference.at(span.last + 1)), span


@pytest.mark.parametrize("architecture", CASES)
def test_the_unsplit_model_is_that_of_stock_llama_cpp(architecture: str, tmp_path: Path) -> None:
    path = write_case(tmp_path / "tiny.gguf", architecture)
    manifest = open_model(path)
    tokens = np.arange(48, dtype=np.int32) * 7 % manifest.vocabulary
    parts = [(0, 40), *((position, position + 1) for position in range(40, 48))]
    last = manifest.layers - 1
    with shared_cells(), engine_of(path, manifest, Span(0, last)) as engine:
        cache = engine._facts.exact_cache_type
        ours = [engine.forward([Segment(1, begin, tokens[begin:end], last, 1)])[0][0] for begin, end in parts]
    with closing(Unsplit(path, CAPACITY.positions, cache)) as model:
        theirs = [model.feed(tokens[begin:end]) for begin, end in parts]
    assert np.array_equal(np.stack(ours), np.stack(theirs))


@pytest.mark.parametrize("architecture", ["gemma2", "gpt-oss"])
def test_a_session_that_was_moved_forgets_no_more_than_its_window_allows(architecture: str, tmp_path: Path) -> None:
    """llama.cpp saves only what a window still sees, so that positions before it could not attend to all of theirs."""
    path = write_case(tmp_path / "tiny.gguf", architecture)
    manifest = open_model(path)
    tokens = np.arange(100, dtype=np.int32)
    with engine_of(path, manifest, Span(0, manifest.layers - 1)) as engine:
        for begin, end in ((0, 99), (99, 100)):
            [kept] = engine.forward([Segment(1, begin, tokens[begin:end], manifest.layers - 1, 1)])
            engine.forward([Segment(3, begin, tokens[begin:end], manifest.layers - 1, 1)])
        engine.truncate(3, 60)
        assert engine.length(3) == 60
        engine.restore(2, engine.export(1))
        with pytest.raises(EngineError, match="cannot forget"):
            engine.truncate(2, 60)
        assert engine.length(2) == 100
        engine.truncate(2, 99)
        [again] = engine.forward([Segment(2, 99, tokens[99:], manifest.layers - 1, 1)])
        assert np.array_equal(again, kept)


@pytest.mark.parametrize("architecture", ["gemma2", "mamba2", "qwen3next", "deepseek2"])
def test_the_speed_of_every_kind_of_model_can_be_measured(architecture: str, tmp_path: Path) -> None:
    path = write_case(tmp_path / "tiny.gguf", architecture)
    manifest = open_model(path)
    with engine_of(path, manifest, Span(0, manifest.layers - 1)) as engine:
        speed, mark = measure(engine)
        assert engine.sessions == 0
        assert measure(engine)[1] == mark
    assert speed.decode_s > 0
    assert not (mark and TABLE[architecture].chunked)


def test_layers_that_predict_more_tokens_are_left_out(tmp_path: Path) -> None:
    plain = write_case(tmp_path / "plain.gguf", "glm4moe")
    path = write_case(tmp_path / "tiny.gguf", "glm4moe", beyond=1)
    manifest = open_model(path)
    assert manifest.layers == 8
    assert {tensor.layer for tensor in manifest.tensors} == {None, *range(8)}
    cuts = cuts_of(manifest)
    reference = Reference(plain, cuts.points, PROMPT_AND_TOKENS)
    for span in (Span(0, 3), Span(4, 7), Span(7, 7)):
        with span_engine(path, span, tmp_path) as engine:
            rows = follow(engine, PROMPT_AND_TOKENS, reference.at(span.first), span.last)
        assert np.array_equal(rows, reference.at(span.last + 1)), span


def test_nodes_of_different_capacity_use_the_same_rope_factors(tmp_path: Path) -> None:
    """llama.cpp chooses between those for short and for long contexts by the size of the whole cache."""
    path = write_case(tmp_path / "tiny.gguf", "phi3")
    span = Span(2, 4)
    data = np.random.default_rng(0).normal(size=(rows_of(PROMPT_AND_TOKENS), 128)).astype(np.float32)
    made = []
    for positions in (256, 1024):
        with span_engine(path, span, tmp_path, positions) as engine:
            made.append(follow(engine, PROMPT_AND_TOKENS, data, span.last))
    assert np.array_equal(made[0], made[1])


@pytest.mark.parametrize("architecture", ["mamba2", "qwen3next"])
def test_a_recurrent_state_forgets_nothing_and_says_so(architecture: str, tmp_path: Path) -> None:
    path = write_case(tmp_path / "tiny.gguf", architecture)
    manifest = open_model(path)
    tokens, last = np.arange(30, dtype=np.int32), manifest.layers - 1
    with engine_of(path, manifest, Span(0, last)) as engine:
        [first] = engine.forward([Segment(1, 0, tokens, last, 1)])
        with pytest.raises(EngineError, match="cannot forget"):
            engine.truncate(1, 20)
        with pytest.raises(EngineError, match="cannot be moved"):
            engine.export(1)
        assert engine.length(1) == 30
        engine.truncate(1, 0)
        [again] = engine.forward([Segment(1, 0, tokens, last, 1)])
        assert np.array_equal(first, again)


@pytest.mark.parametrize(("architecture", "wrong"), [("gpt-oss", Span(1, 2)), ("llama4", Span(0, 2))])
def test_a_span_that_cannot_be_cut_out_is_refused_with_the_nearest_right_ones(
    architecture: str, wrong: Span, tmp_path: Path
) -> None:
    manifest = open_model(write_case(tmp_path / "tiny.gguf", architecture))
    near = " or ".join(map(str, cuts_of(manifest).nearest(wrong)))
    with pytest.raises(SpanError, match=f"take {near} instead"):
        plan_span(manifest, wrong)


def test_a_chunk_that_was_moved_forgets_what_lies_within_it(tmp_path: Path) -> None:
    """Llama 4 attends to the chunk of 8,192 positions in which a token is."""
    path = write_case(tmp_path / "tiny.gguf", "llama4", {"context_length": 16384})
    manifest, length = open_model(path), 8300
    last, tokens = manifest.layers - 1, np.arange(length, dtype=np.int32) % 200
    with engine_of(path, manifest, Span(0, last), 8448) as engine:
        for begin in range(0, length, 256):
            part = tokens[begin : begin + 256]
            engine.forward([Segment(1, begin, part, last, 1)])
        engine._cache.arrange()
        engine.truncate(1, length - 100)
        assert engine.length(1) == length - 100
        with pytest.raises(EngineError, match="cannot forget"):
            engine.truncate(1, 8000)


@pytest.mark.parametrize("architecture", ["mamba2", "qwen3next"])
def test_when_a_batch_of_states_fails_nobody_holds_more_than_is_known(architecture: str, tmp_path: Path) -> None:
    path = write_case(tmp_path / "tiny.gguf", architecture)
    manifest, tokens = open_model(path), np.arange(200, dtype=np.int32)
    last = manifest.layers - 1
    with engine_of(path, manifest, Span(0, last), 256) as engine:
        engine.forward([Segment(1, 0, tokens[:100], last, 1)])
        if architecture == "mamba2":  # whose sessions take no cells, so that only sequences run out
            for session in (2, 3, 4):
                engine.forward([Segment(session, 0, tokens[:1], last, 1)])
        with pytest.raises(CapacityError):
            engine.forward([Segment(1, 100, tokens[:1], last, 1), Segment(9, 0, tokens, last, 1)])
        assert engine.length(1) in (0, 100)
        assert engine.length(9) == 0
        engine.close(1)
        [again] = engine.forward([Segment(1, 0, tokens[:100], last, 1)])
        assert np.isfinite(again).all()


def test_states_are_never_kept_outside_of_the_cache(tmp_path: Path) -> None:
    """They would take memory that nobody has reckoned with, however short their sessions are."""
    path = write_case(tmp_path / "tiny.gguf", "mamba2")
    manifest, tokens = open_model(path), np.arange(10, dtype=np.int32)
    last = manifest.layers - 1
    with engine_of(path, manifest, Span(0, last)) as engine:
        for session in range(1, 5):
            engine.forward([Segment(session, 0, tokens, last, 1)])
        for position in range(10, 90):
            engine.forward([Segment(1, position, tokens[:1], last, 1)])
        with pytest.raises(CapacityError, match="All 4 sessions"):
            engine.forward([Segment(5, 0, tokens, last, 1)])
