"""Sessions that are cut back again and again, as wrong guesses are, get the bits that they get without any guess."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kit.cut_proof import engine_of, shared_cells
from kit.tiny_architectures import write_case
from potluck.engine.base import Segment
from potluck.engine.llamacpp import LlamaCppEngine
from potluck.errors import EngineError
from potluck.models.sources import open_model
from potluck.types import Span

SESSIONS = 4
LENGTH = 60
"""The tokens of each session that are right."""


class Guessed:
    """Sessions of an engine that know which tokens follow, and what each gives where nobody guesses."""

    def __init__(self, engine: LlamaCppEngine, length: int = LENGTH) -> None:
        self.engine = engine
        self.last = engine.layers - 1
        self._tokens = np.random.default_rng(1).integers(0, engine.vocabulary, (SESSIONS, length)).astype(np.int32)
        self._expected = [self._alone(tokens) for tokens in self._tokens]
        self.begin()

    def _alone(self, tokens: np.ndarray) -> np.ndarray:
        [logits] = self.engine.forward([Segment(99, 0, tokens, self.last, len(tokens))])
        self.engine.close(99)
        return logits

    def begin(self) -> None:
        for session in range(1, SESSIONS + 1):
            self.engine.close(session)
        self.engine._cache.arrange()
        self.held = [0] * SESSIONS

    def segment(self, one: int, right: int, wrong: int) -> Segment:
        begin = self.held[one]
        known = self._tokens[one, begin : begin + right]
        guesses = (self._tokens[one, : len(known) + wrong][len(known) :] + 1) % self.engine.vocabulary
        return Segment(one + 1, begin, np.concatenate([known, guesses]), self.last, len(known) + wrong)

    def step(self, group: dict[int, tuple[int, int]]) -> None:
        """Let these sessions have so many right and wrong tokens in one forward, and forget the wrong ones."""
        batch = {one: self.segment(one, *counts) for one, counts in group.items()}
        outputs = self.engine.forward(list(batch.values()))
        for (one, segment), output in zip(batch.items(), outputs, strict=True):
            begin, wrong = self.held[one], group[one][1]
            right = segment.rows - wrong
            assert np.array_equal(output[:right], self._expected[one][begin : begin + right])
            self.held[one] += right
            self.engine.truncate(one + 1, self.held[one])
            assert self.engine.length(one + 1) == self.held[one]


def guessing_engine(folder: Path, architecture: str, *, shared: bool) -> Iterator[Guessed]:
    path = write_case(folder / "tiny.gguf", architecture)
    manifest = open_model(path)
    with (
        shared_cells() if shared else nullcontext(),
        engine_of(path, manifest, Span(0, manifest.layers - 1)) as engine,
    ):
        assert engine._cache.has_slots is not shared
        yield Guessed(engine)


# The second has sliding windows, the third short keys and no values, and the fourth a second cache to choose keys by.
@pytest.fixture(params=["llama", "gemma2", "deepseek2", "deepseek32"])
def sharing(request, tmp_path) -> Iterator[Guessed]:
    yield from guessing_engine(tmp_path, request.param, shared=True)


@pytest.fixture(params=["llama", "gemma2"])
def slotted(request, tmp_path) -> Iterator[Guessed]:
    yield from guessing_engine(tmp_path, request.param, shared=False)


@pytest.fixture
def few_cells(tmp_path, monkeypatch) -> Iterator[Guessed]:
    """One that arranges its cache for a few cells."""
    monkeypatch.setattr("potluck.engine.session_table._MANY_CELLS", 4)
    yield from guessing_engine(tmp_path, "llama", shared=True)


GROUPS = st.dictionaries(
    st.integers(0, SESSIONS - 1), st.tuples(st.integers(1, 3), st.integers(0, 4)), min_size=1, max_size=SESSIONS
)
"""Sessions with their right and wrong tokens."""
SCRIPTS = st.lists(GROUPS, min_size=10, max_size=60)
examples = settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])


def follow(guessed: Guessed, script: Sequence[dict[int, tuple[int, int]]]) -> None:
    guessed.begin()
    for group in script:
        if going := {one: counts for one, counts in group.items() if guessed.held[one] < LENGTH}:
            guessed.step(going)


@examples
@given(script=SCRIPTS)
def test_whatever_is_guessed_in_shared_cells_changes_no_bit(sharing: Guessed, script) -> None:
    follow(sharing, script)


@examples
@given(script=SCRIPTS)
def test_whatever_is_guessed_in_slots_changes_no_bit(slotted: Guessed, script) -> None:
    follow(slotted, script)


@examples
@given(script=SCRIPTS)
def test_the_cells_of_wrong_guesses_are_given_back_without_changing_a_bit(few_cells: Guessed, script) -> None:
    follow(few_cells, script)


def test_a_guess_that_is_wrong_hundreds_of_times_moves_nothing(tmp_path: Path, monkeypatch) -> None:
    for guessed in guessing_engine(tmp_path, "llama", shared=True):
        guessed.step(dict.fromkeys(range(SESSIONS), (3, 0)))
        with monkeypatch.context() as patch:
            patch.setattr(guessed.engine._cache, "arrange", lambda *_, **__: pytest.fail("The cache was arranged."))
            for number in range(200):
                one = number % SESSIONS
                held = guessed.held[one]
                segment = guessed.segment(one, 0, 2)
                guessed.engine.forward([segment])
                guessed.engine.truncate(one + 1, held)
            assert guessed.engine._cache.table._left_cells == 400
        for _ in range(400):
            guessed.step({one: (1, 2) if guessed.held[one] < LENGTH - 1 else (0, 2) for one in range(SESSIONS)})
        assert guessed.engine._cache.table._left_cells < 3200  # they came back several times


def test_real_weights_give_the_same_bits_after_hundreds_of_wrong_guesses(smollm2: Path) -> None:
    manifest = open_model(smollm2)
    with shared_cells(), engine_of(smollm2, manifest, Span(0, manifest.layers - 1)) as engine:
        guessed, draw = Guessed(engine, 80), np.random.default_rng(2)
        wrong = 0
        while min(guessed.held) < 60:
            group = {
                one: (int(draw.integers(1, 3)), int(draw.integers(0, 4)))
                for one in range(SESSIONS)
                if draw.random() < 0.7 and guessed.held[one] < 76
            }
            if group:
                guessed.step(group)
                wrong += sum(counts[1] > 0 for counts in group.values())
        assert wrong > 60


def test_a_batch_that_fails_among_wrong_guesses_changes_nothing(tmp_path: Path, monkeypatch) -> None:
    for guessed in guessing_engine(tmp_path, "llama", shared=True):
        everybody = dict.fromkeys(range(SESSIONS), (2, 2))
        for _ in range(5):
            guessed.step(everybody)
            with monkeypatch.context() as patch:
                patch.setattr("potluck.engine.context.Context.decode", lambda *_: -3)
                with pytest.raises(EngineError, match="code -3"):
                    guessed.step(everybody)
            assert [guessed.engine.length(one + 1) for one in range(SESSIONS)] == guessed.held
            guessed.step(everybody)


def test_a_memory_that_cannot_give_cells_to_another_sequence_is_arranged_anew(tmp_path: Path, monkeypatch) -> None:
    """llama.cpp ends the process when it is asked of some, and nobody knows of which kind an unknown model's is."""
    monkeypatch.setattr("potluck.engine.model_facts.ModelFacts.form", None)
    for guessed in guessing_engine(tmp_path, "llama", shared=True):
        for _ in range(10):
            guessed.step(dict.fromkeys(range(SESSIONS), (2, 2)))
            assert guessed.engine._cache.table._left_cells == 0
