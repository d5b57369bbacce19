"""From a welcome to an engine: where the layout is proved, and what fits the memory."""

from __future__ import annotations

import logging
from pathlib import Path

import msgspec
import pytest

from kit.tiny_architectures import write_tiny
from kit.tiny_gguf import write_tiny_gguf
from kit.tiny_hf import write_tiny_hf
from potluck.coordinator.model_choice import footprint as footprint_of
from potluck.errors import EngineError, ModelError, SpanError
from potluck.models.manifest import Manifest
from potluck.models.sizes import part_sizes
from potluck.models.sources import open_model
from potluck.node import loading
from potluck.node.progress import Phase
from potluck.types import Attention, Capacity, EngineKind, Quantize, RowFormat, Span
from potluck.wire.messages import Welcome

GIB = 1 << 30


@pytest.fixture
def model(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("POTLUCK_CACHE", str(tmp_path / "cache"))
    return write_tiny_gguf(tmp_path / "tiny.gguf", "llama", layers=4)


def welcome(manifest: Manifest) -> Welcome:
    return Welcome(
        node="n1",
        model=manifest.digest,
        span=Span(1, 2),
        engine=EngineKind.LLAMACPP,
        quantize=Quantize.NONE,
        attention=Attention.EXACT,
        rows=RowFormat.F32,
        context=128,
    )


def fetch(model: Path) -> tuple[Manifest, Path, list[float]]:
    fractions: list[float] = []

    def report(phase: Phase, fraction: float) -> None:
        assert phase is Phase.FETCH
        fractions.append(fraction)

    terms = welcome(open_model(model))
    with loading.opened("http://unused", model, terms) as (manifest, source):
        path = loading.fetch_span(manifest, source, terms, report)
    return manifest, path, fractions


def test_a_model_on_disk_becomes_a_span_file_in_the_cache(model, tmp_path):
    _, path, fractions = fetch(model)
    assert path.is_relative_to(tmp_path / "cache")
    assert path.stat().st_size < model.stat().st_size
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1


def test_a_model_of_another_hash_is_refused(model, tmp_path):
    other = write_tiny_gguf(tmp_path / "other.gguf", "llama", layers=4, seed=1)
    with (
        pytest.raises(ModelError, match="hash"),
        loading.opened("http://unused", model, welcome(open_model(other))),
    ):
        pass


def test_a_span_outside_the_model_is_refused(model):
    manifest = open_model(model)
    terms = msgspec.structs.replace(welcome(manifest), span=Span(0, 2**64 - 1))
    with pytest.raises(SpanError, match="outside the model"), loading.opened("http://unused", model, terms):
        pass


@pytest.mark.parametrize(("verdicts", "layout"), [([True], "optimised"), ([False, True], "plain")])
def test_a_layout_that_crashes_is_not_used_and_tried_once_only(model, monkeypatch, caplog, verdicts, layout):
    manifest, path, _ = fetch(model)
    asked = iter(verdicts)
    monkeypatch.setattr(loading, "survives", lambda *_: next(asked))
    for _ in range(2):
        with caplog.at_level(logging.WARNING):
            engine, used = loading.load_span(manifest, path, welcome(manifest), GIB, 1, lambda *_: None)
        engine.unload()
        assert used == layout
    assert ("uses the plain one" in caplog.text) == (layout == "plain")


def test_a_span_that_no_layout_can_run_is_an_error(model, monkeypatch):
    manifest, path, _ = fetch(model)
    monkeypatch.setattr(loading, "survives", lambda *_: False)
    with pytest.raises(EngineError, match="crashes on layers 1-2"):
        loading.load_span(manifest, path, welcome(manifest), GIB, 1, lambda *_: None)


def test_the_cache_is_as_large_as_the_memory_allows_up_to_eight_full_sessions(model):
    manifest = open_model(model)
    assert loading.plan_capacity(manifest, welcome(manifest), GIB).positions == 8 * 128
    cell = 2 * manifest.kv_width * 34 / 32 + loading._ABOUT_A_POSITION
    sizes = part_sizes(manifest, EngineKind.LLAMACPP, Quantize.NONE).of(Span(1, 2))
    tight = int(loading._OVERHEAD_BYTES + sizes + 300 * cell) + 1
    assert loading.plan_capacity(manifest, welcome(manifest), tight) == Capacity(64, 300, 64)


STATES = {
    "ssm.conv_kernel": 4,
    "ssm.inner_size": 128,
    "ssm.state_size": 16,
    "ssm.time_step_rank": 4,
    "ssm.group_count": 2,
    "attention.head_count_kv": [0, 2] * 4,
}


def test_a_span_with_states_takes_as_many_sessions_as_their_states_fit(tmp_path):
    manifest = open_model(write_tiny(tmp_path / "tiny.gguf", "granitehybrid", STATES))
    span = Span(2, 3)  # its first layer keeps a state, its last one cells
    terms = msgspec.structs.replace(welcome(manifest), span=span)
    cell, state = 2 * 2 * 34, 4 * (3 * (128 + 2 * 2 * 16) + 128 * 16)
    sizes = part_sizes(manifest, EngineKind.LLAMACPP, Quantize.NONE)
    base = loading._OVERHEAD_BYTES + sizes.of(span)
    session = 128 * (cell + loading._ABOUT_A_POSITION) + state
    assert loading.plan_capacity(manifest, terms, GIB) == Capacity(64, 8 * 128, 64)
    assert loading.plan_capacity(manifest, terms, base + 3 * session) == Capacity(3, 3 * 128, 64)
    assert loading.plan_capacity(manifest, terms, base + 8 * session + 2 * state) == Capacity(10, 8 * 128, 64)
    assert loading.needs(manifest, terms, base + 3 * session).memory == base + 3 * (128 * cell + state)
    with pytest.raises(EngineError, match="MiB of memory"):
        loading.plan_capacity(manifest, terms, base + sizes.staged - 1)


def test_a_span_needs_room_for_its_largest_tensor_while_it_is_loaded(model):
    manifest = open_model(model)
    terms = msgspec.structs.replace(welcome(manifest), context=1)
    sizes = part_sizes(manifest, EngineKind.LLAMACPP, Quantize.NONE)
    least = loading._OVERHEAD_BYTES + sizes.of(Span(1, 2)) + sizes.staged
    assert loading.plan_capacity(manifest, terms, least).positions == 8
    with pytest.raises(EngineError, match="MiB of memory"):
        loading.plan_capacity(manifest, terms, least - 1)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("span", ["0-1", "1-2", "2-3", "0-3"])
def test_a_node_needs_no_more_than_the_plan_says(tmp_path, span, tied):
    manifest = open_model(write_tiny_gguf(tmp_path / "tiny.gguf", "llama", layers=4, tied=tied))
    terms = msgspec.structs.replace(welcome(manifest), span=Span.parse(span), context=512)
    needed = footprint_of(manifest, EngineKind.LLAMACPP, Quantize.NONE, 512).of(terms.span)
    assert loading.plan_capacity(manifest, terms, needed).positions >= 512


def test_a_span_that_does_not_fit_says_what_it_needs(model):
    manifest = open_model(model)
    with pytest.raises(EngineError, match="MiB of memory"):
        loading.plan_capacity(manifest, welcome(manifest), 1 << 20)


def test_what_a_span_needs_is_known_before_it_is_fetched(model):
    manifest = open_model(model)
    terms = welcome(manifest)
    needed = loading.needs(manifest, terms, GIB)
    sizes = part_sizes(manifest, EngineKind.LLAMACPP, Quantize.NONE).of(Span(1, 2))
    assert needed.memory == loading._OVERHEAD_BYTES + sizes + int(8 * 128 * 2 * manifest.kv_width * 34 / 32)
    assert 0 < needed.download < model.stat().st_size
    fetch(model)
    assert loading.needs(manifest, terms, GIB) == (needed.memory, 0)
    with pytest.raises(EngineError, match="MiB of memory"):
        loading.needs(manifest, terms, 1 << 20)


def test_every_phase_of_loading_is_told_to_its_end(model):
    manifest, path, _ = fetch(model)
    told: dict[Phase, list[float]] = {}
    engine, _ = loading.load_span(
        manifest, path, welcome(manifest), GIB, 1, lambda phase, fraction: told.setdefault(phase, []).append(fraction)
    )
    engine.unload()
    assert list(told) == [Phase.TRY, Phase.LOAD]
    for fractions in told.values():
        assert fractions == sorted(fractions)
        assert fractions[-1] == 1
        assert len(fractions) > 1


def test_the_hashing_of_a_model_is_told(model):
    class Told:
        def __init__(self) -> None:
            self.fractions: list[float | None] = []

        def say(self, text: str) -> None:
            raise AssertionError(text)

        def progress(self, what: str, fraction: float | None) -> None:
            assert what == "Checking the model"
            self.fractions.append(fraction)

    told = Told()
    assert loading.model_digest(model, told) == open_model(model).digest
    assert told.fractions[-1] == 1
    assert len(told.fractions) > 2
    assert loading.model_digest(None, told) == ""


@pytest.mark.parametrize("context", [-1, 0, 513, 1 << 40])
def test_sessions_that_the_model_cannot_have_are_refused(model, context):
    manifest = open_model(model)  # its context is 512
    terms = msgspec.structs.replace(welcome(manifest), context=context)
    with pytest.raises(EngineError, match=f"sessions of {context} positions"):
        loading.plan_capacity(manifest, terms, GIB)


def test_the_cells_are_bounded_whatever_the_memory(model, monkeypatch):
    monkeypatch.setattr(loading, "_MOST_POSITIONS", 1000)
    manifest = open_model(model)
    assert loading.plan_capacity(manifest, welcome(manifest), GIB).positions == 1000


def test_a_tensor_that_is_too_large_to_be_converted_is_not_fetched(tmp_path, monkeypatch):
    monkeypatch.setenv("POTLUCK_CACHE", str(tmp_path / "cache"))
    manifest = open_model(write_tiny_hf(tmp_path / "tiny", layers=4))
    terms = msgspec.structs.replace(welcome(manifest), quantize=Quantize.Q4_0)
    loading.needs(manifest, terms, GIB)
    memory = loading._OVERHEAD_BYTES + 2 * 64 * 64 * 4 - 1  # a matrix in float32, and once more in another order
    monkeypatch.setattr(loading, "plan_capacity", lambda *_: Capacity(1, 0, 1))
    with pytest.raises(EngineError, match="Converting layers 1-2 needs"):
        loading.needs(manifest, terms, memory)


@pytest.mark.parametrize(
    "changes",
    [
        {"engine": EngineKind.TRANSFORMERS},
        {"engine": EngineKind.TRANSFORMERS, "quantize": Quantize.INT4},
    ],
)
def test_a_gguf_model_for_the_wrong_engine_is_refused(model, changes):
    manifest = open_model(model)
    with pytest.raises(ModelError, match=r"which only the llama\.cpp engine runs"):
        loading.needs(manifest, msgspec.structs.replace(welcome(manifest), **changes), GIB)


@pytest.mark.parametrize("quantize", [Quantize.NONE, Quantize.INT8])
def test_a_type_that_llama_cpp_does_not_make_is_refused(tmp_path, quantize):
    manifest = open_model(write_tiny_hf(tmp_path / "tiny"))
    with pytest.raises(ModelError, match=f", not {quantize}"):
        loading.needs(manifest, msgspec.structs.replace(welcome(manifest), quantize=quantize), GIB)


def test_a_coordinator_that_names_ever_more_models_fills_no_disk(model, tmp_path):
    paths = [fetch(write_tiny_gguf(tmp_path / "other.gguf", "llama", layers=4, seed=seed))[1] for seed in range(6)]
    assert len(set(paths)) == 6
    assert [path.exists() for path in paths] == [False, False, True, True, True, True]
