"""From a welcome to an engine: where the layout is proved, and what fits the memory."""

from __future__ import annotations

import logging
from bisect import bisect_left
from pathlib import Path

import msgspec
import pytest

from kit.tiny_architectures import write_tiny
from kit.tiny_gguf import write_tiny_gguf
from kit.tiny_hf import write_tiny_hf
from potluck.coordinator.model_choice import footprint as footprint_of
from potluck.engine.base import Engine
from potluck.engine.probe import Trial
from potluck.errors import CardLost, EngineError, ModelError, SpanError
from potluck.models.manifest import Manifest
from potluck.models.sizes import part_sizes
from potluck.models.sources import open_model
from potluck.node import loading, room
from potluck.node.progress import Phase
from potluck.node.room import ABOUT_A_POSITION, OVERHEAD_BYTES, Plan, Room, plan_room
from potluck.planning.offload import CARD_RESERVE_BYTES
from potluck.types import NO_OFFLOAD, Attention, Capacity, EngineKind, Offload, Quantize, RowFormat, Span
from potluck.wire.messages import Welcome

GIB = 1 << 30


def capacity(manifest, terms, memory):
    return plan_room(manifest, terms, Room(memory)).capacity


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
            engine, used = loading.load_span(manifest, path, welcome(manifest), Room(GIB), 1, lambda *_: None)
        engine.unload()
        assert used == layout
    assert ("crashes on this machine with the optimised weight layout" in caplog.text) == (layout == "plain")


def test_of_several_kernels_the_best_that_survive_are_used(model, monkeypatch):
    """Before the plain weight layout, which is slower, and the next time without a trial."""
    manifest, path, _ = fetch(model)
    tried: list[tuple[str, bool]] = []

    def survives(trial: Trial, _progress) -> bool:
        tried.append((Path(trial.kernels).name, trial.extra_buffers))
        return trial.kernels.endswith("older.so")

    loaded: list[str] = []
    load = Trial.load

    def remembered(trial: Trial, *others) -> Engine:
        loaded.append(trial.kernels)
        return load(trial, *others)

    monkeypatch.setattr(loading, "kernels_to_try", lambda: [Path("newest.so"), Path("newer.so"), Path("older.so")])
    monkeypatch.setattr(loading, "survives", survives)
    monkeypatch.setattr(Trial, "load", remembered)
    for _ in range(2):
        engine, used = loading.load_span(manifest, path, welcome(manifest), Room(GIB), 1, lambda *_: None)
        engine.unload()
        assert used == "optimised"
    assert tried == [("newest.so", True), ("newer.so", True), ("older.so", True)]
    assert loaded == ["older.so", "older.so"]
    monkeypatch.setattr(loading, "kernels_to_try", lambda: [Path("others.so")])
    with pytest.raises(EngineError, match="crashes on layers 1-2"):
        loading.load_span(manifest, path, welcome(manifest), Room(GIB), 1, lambda *_: None)


def test_a_span_that_no_layout_can_run_is_an_error(model, monkeypatch):
    manifest, path, _ = fetch(model)
    monkeypatch.setattr(loading, "survives", lambda *_: False)
    with pytest.raises(EngineError, match="crashes on layers 1-2"):
        loading.load_span(manifest, path, welcome(manifest), Room(GIB), 1, lambda *_: None)


class Cards:
    """Stands for the child that tries a span and for the engine that loads it: for a card that holds so many layers in
    the trial, and so many when it counts. The engine itself gets none, because this machine has no card.
    """

    def __init__(self, monkeypatch, holds: int, loads: int) -> None:
        self.tried: list[Trial] = []
        self._holds, self._loads = holds, loads
        self._load = Trial.load
        monkeypatch.setattr(loading, "survives", self._survives)
        monkeypatch.setattr(Trial, "load", lambda trial, *arguments: self.load(trial, *arguments))

    def _survives(self, trial: Trial, _progress) -> bool:
        self.tried.append(trial)
        return trial.offload.layers <= self._holds

    def load(self, trial: Trial, *arguments):
        if trial.offload.layers > self._loads:
            raise EngineError("llama.cpp has no memory for 8 positions.")
        return self._load(msgspec.structs.replace(trial, offload=NO_OFFLOAD), *arguments)


def roomy(manifest: Manifest, layers: int) -> Room:
    """A room with a card for so many layers of the welcome's two."""
    sizes = part_sizes(manifest, EngineKind.LLAMACPP, Quantize.NONE).layers
    cache = 8 * 128 * manifest.kv_width * 34 // 32
    return Room(GIB, CARD_RESERVE_BYTES + layers * (sizes[0] + cache))


@pytest.mark.parametrize(
    ("holds", "loads", "layout"),
    [
        (2, 2, "optimised, 2 layers on a card"),
        (1, 1, "optimised, 1 layer on a card"),
        (2, 1, "optimised, 1 layer on a card"),
        (2, 0, "optimised"),
        (0, 0, "optimised"),
    ],
)
def test_a_card_that_does_not_hold_its_part_gets_less_and_at_last_nothing(
    model, monkeypatch, caplog, holds, loads, layout
):
    manifest, path, _ = fetch(model)
    full = roomy(manifest, 2)
    # Half of a card must hold one of two layers, and less nothing.
    monkeypatch.setattr(Room, "steps", lambda _: iter([full, roomy(manifest, 1), Room(GIB)]))
    cards = Cards(monkeypatch, holds, loads)
    with caplog.at_level(logging.WARNING):
        engine, used = loading.load_span(manifest, path, welcome(manifest), full, 1, lambda *_: None)
    engine.unload()
    assert used == layout
    assert ("cannot take 2 layers of layers 1-2" in caplog.text) == (used != "optimised, 2 layers on a card")
    # A card is tried with the sessions that it will have.
    [first, *_] = cards.tried
    assert (first.offload, first.capacity.positions) == (Offload(2, 2), 8 * 128)


def test_steps_give_a_card_half_as_much_each_time():
    steps = [*Room(GIB, 8 * CARD_RESERVE_BYTES + 1).steps()]
    assert [step.card // CARD_RESERVE_BYTES for step in steps] == [8, 4, 2, 0]
    assert [*Room(GIB).steps()] == [Room(GIB)]


@pytest.mark.parametrize("layers", [0, 1, 2])
def test_what_lies_on_a_card_does_not_count_as_memory(model, layers):
    manifest = open_model(model)
    without, plan = (plan_room(manifest, welcome(manifest), one) for one in (Room(GIB), roomy(manifest, layers)))
    assert plan.capacity == without.capacity
    assert plan.offload == Offload(layers, layers)
    assert plan.card == (roomy(manifest, layers).card if layers else 0)
    assert plan.memory == without.memory - (plan.card - CARD_RESERVE_BYTES if layers else 0)


def test_a_card_that_shares_the_memory_adds_none(model):
    manifest = open_model(model)
    plain = plan_room(manifest, welcome(manifest), Room(GIB))
    shared = plan_room(manifest, welcome(manifest), Room(GIB, GIB, shares=True))
    assert shared == plain._replace(offload=Offload(2, 2), card=shared.card)
    with pytest.raises(EngineError, match="MiB of memory; 200 are offered"):
        plan_room(manifest, welcome(manifest), Room(200 << 20, GIB, shares=True))


def test_a_card_makes_room_for_sessions_in_the_memory(model):
    manifest = open_model(model)
    weights = part_sizes(manifest, EngineKind.LLAMACPP, Quantize.NONE).of(Span(1, 2))
    least = OVERHEAD_BYTES + weights + 8 * 128 * ABOUT_A_POSITION
    tight = plan_room(manifest, welcome(manifest), Room(least))
    beside = plan_room(manifest, welcome(manifest), Room(least, roomy(manifest, 2).card))
    assert tight.capacity.positions < beside.capacity.positions == 8 * 128
    assert beside.memory <= least


def test_the_cache_is_as_large_as_the_memory_allows_up_to_eight_full_sessions(model):
    manifest = open_model(model)
    assert capacity(manifest, welcome(manifest), GIB).positions == 8 * 128
    cell = 2 * manifest.kv_width * 34 / 32 + ABOUT_A_POSITION
    sizes = part_sizes(manifest, EngineKind.LLAMACPP, Quantize.NONE).of(Span(1, 2))
    tight = int(OVERHEAD_BYTES + sizes + 300 * cell) + 1
    assert capacity(manifest, welcome(manifest), tight) == Capacity(64, 300, 64)


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
    base = OVERHEAD_BYTES + sizes.of(span)
    session = 128 * (cell + ABOUT_A_POSITION) + state
    assert capacity(manifest, terms, GIB) == Capacity(64, 8 * 128, 64)
    assert capacity(manifest, terms, base + 3 * session) == Capacity(3, 3 * 128, 64)
    assert capacity(manifest, terms, base + 8 * session + 2 * state) == Capacity(10, 8 * 128, 64)
    assert loading.needs(manifest, terms, Room(base + 3 * session)).memory == base + 3 * (128 * cell + state)
    with pytest.raises(EngineError, match="MiB of memory"):
        capacity(manifest, terms, base + sizes.staged - 1)


def test_a_span_needs_room_for_its_largest_tensor_while_it_is_loaded(model):
    manifest = open_model(model)
    terms = msgspec.structs.replace(welcome(manifest), context=1)
    sizes = part_sizes(manifest, EngineKind.LLAMACPP, Quantize.NONE)
    least = OVERHEAD_BYTES + sizes.of(Span(1, 2)) + sizes.staged
    assert capacity(manifest, terms, least).positions == 8
    with pytest.raises(EngineError, match="MiB of memory"):
        capacity(manifest, terms, least - 1)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("span", ["0-1", "1-2", "2-3", "0-3"])
def test_a_node_needs_no_more_than_the_plan_says(tmp_path, span, tied):
    manifest = open_model(write_tiny_gguf(tmp_path / "tiny.gguf", "llama", layers=4, tied=tied))
    terms = msgspec.structs.replace(welcome(manifest), span=Span.parse(span), context=512)
    needed = footprint_of(manifest, EngineKind.LLAMACPP, Quantize.NONE, 512).of(terms.span)
    assert capacity(manifest, terms, needed).positions >= 512


def test_a_span_that_does_not_fit_says_what_it_needs(model):
    manifest = open_model(model)
    with pytest.raises(EngineError, match="MiB of memory"):
        capacity(manifest, welcome(manifest), 1 << 20)


def test_what_a_span_needs_is_known_before_it_is_fetched(model):
    manifest = open_model(model)
    terms = welcome(manifest)
    needed = loading.needs(manifest, terms, Room(GIB))
    sizes = part_sizes(manifest, EngineKind.LLAMACPP, Quantize.NONE).of(Span(1, 2))
    assert needed.memory == OVERHEAD_BYTES + sizes + int(8 * 128 * 2 * manifest.kv_width * 34 / 32)
    assert 0 < needed.download < model.stat().st_size
    fetch(model)
    assert loading.needs(manifest, terms, Room(GIB)) == (needed.memory, 0, 0)
    with pytest.raises(EngineError, match="MiB of memory"):
        loading.needs(manifest, terms, Room(1 << 20))


def test_every_phase_of_loading_is_told_to_its_end(model):
    manifest, path, _ = fetch(model)
    told: dict[Phase, list[float]] = {}
    engine, _ = loading.load_span(
        manifest,
        path,
        welcome(manifest),
        Room(GIB),
        1,
        lambda phase, fraction: told.setdefault(phase, []).append(fraction),
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
        capacity(manifest, terms, GIB)


def test_the_cells_are_bounded_whatever_the_memory(model, monkeypatch):
    monkeypatch.setattr(room, "MOST_POSITIONS", 1000)
    manifest = open_model(model)
    assert capacity(manifest, welcome(manifest), GIB).positions == 1000


def test_a_tensor_that_is_too_large_to_be_converted_is_not_fetched(tmp_path, monkeypatch):
    monkeypatch.setenv("POTLUCK_CACHE", str(tmp_path / "cache"))
    manifest = open_model(write_tiny_hf(tmp_path / "tiny", layers=4))
    terms = msgspec.structs.replace(welcome(manifest), quantize=Quantize.Q4_0)
    loading.needs(manifest, terms, Room(GIB))
    memory = OVERHEAD_BYTES + 2 * 64 * 64 * 4 - 1  # a matrix in float32, and once more in another order
    monkeypatch.setattr(loading, "plan_room", lambda *_: Plan(Capacity(1, 0, 1), NO_OFFLOAD, 0, 0))
    with pytest.raises(EngineError, match="Converting layers 1-2 needs"):
        loading.needs(manifest, terms, Room(memory))


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
        loading.needs(manifest, msgspec.structs.replace(welcome(manifest), **changes), Room(GIB))


@pytest.mark.parametrize("quantize", [Quantize.NONE, Quantize.INT8])
def test_a_type_that_llama_cpp_does_not_make_is_refused(tmp_path, quantize):
    manifest = open_model(write_tiny_hf(tmp_path / "tiny"))
    with pytest.raises(ModelError, match=f", not {quantize}"):
        loading.needs(manifest, msgspec.structs.replace(welcome(manifest), quantize=quantize), Room(GIB))


def test_a_coordinator_that_names_ever_more_models_fills_no_disk(model, tmp_path):
    paths = [fetch(write_tiny_gguf(tmp_path / "other.gguf", "llama", layers=4, seed=seed))[1] for seed in range(6)]
    assert len(set(paths)) == 6
    assert [path.exists() for path in paths] == [False, False, True, True, True, True]


def test_what_survives_on_a_card_is_no_verdict_for_the_cpu(model, monkeypatch):
    """Nor the other way round: each is tried where it will compute."""
    manifest, path, _ = fetch(model)
    cards = Cards(monkeypatch, holds=2, loads=2)
    for offered in (roomy(manifest, 2), Room(GIB), roomy(manifest, 2), Room(GIB)):
        loading.load_span(manifest, path, welcome(manifest), offered, 1, lambda *_: None)[0].unload()
    assert [trial.offload.layers for trial in cards.tried] == [2, 0, 2]


def test_a_card_that_fails_where_the_memory_alone_does_not_suffice_is_told(model, monkeypatch):
    manifest, path, _ = fetch(model)
    Cards(monkeypatch, holds=0, loads=0)
    card = roomy(manifest, 2).card
    least = bisect_left(range(GIB), True, key=lambda memory: fits(manifest, Room(memory, card)))
    assert not fits(manifest, Room(least))
    with pytest.raises(CardLost, match="The graphics card cannot take its part of layers 1-2, and Layers 1-2 with"):
        loading.load_span(manifest, path, welcome(manifest), Room(least, card), 1, lambda *_: None)


def fits(manifest: Manifest, room: Room) -> bool:
    try:
        loading.plan_room(manifest, welcome(manifest), room)
    except EngineError:
        return False
    return True
