"""Which small models may guess for which large ones."""

from __future__ import annotations

from pathlib import Path

import msgspec
import psutil
import pytest

from kit.runner import run
from kit.tiny_architectures import write_case
from kit.tiny_gguf import write_tiny_gguf
from kit.tiny_hf import write_tiny_hf, write_tiny_tokenizer
from kit.waiting import until
from potluck.coordinator.guessers import check_guesser, make_guesser
from potluck.coordinator.text.opening import open_tokenizer
from potluck.errors import ModelError
from potluck.models.holds import is_held
from potluck.models.sources import Found, cache_folder, find_model, open_model
from potluck.wire.guessing import Order


def tiny(folder: Path, name: str, *controls: str) -> Path:
    return write_tiny_gguf(folder / f"{name}.gguf", layers=1, tokenizer="bpe", controls=controls)


def found(path: Path) -> Found:
    return find_model(str(path))


def held_spans() -> set[Path]:
    return {path for path in (cache_folder() / "spans").glob("*/*.gguf") if is_held(path)}


def test_a_model_whose_vocabulary_differs_is_refused_in_a_sentence(tmp_path: Path) -> None:
    large, other = tiny(tmp_path, "large", "<|a|>"), tiny(tmp_path, "other", "<|b|>")
    tokenizer = open_tokenizer(large)
    with pytest.raises(ModelError) as refused:
        make_guesser(found(other), open_model(large), tokenizer, 100)
    token = tokenizer.vocabulary - 1
    assert str(refused.value) == (
        "other cannot guess for large, because their vocabularies differ: "
        f"token {token} is '<|b|>' for the one and '<|a|>' for the other."
    )


@pytest.mark.parametrize("controls", [[], ["<|a|>"], ["<|a|>", "<|b|>", "<|c|>"]])
def test_tokens_that_only_one_of_them_has_do_not_matter(tmp_path: Path, controls: list[str]) -> None:
    large, small = tiny(tmp_path, "large", "<|a|>", "<|b|>"), tiny(tmp_path, "small", *controls)
    made = make_guesser(found(small), open_model(large), open_tokenizer(large), 100)
    shared = min(open_model(large).vocabulary, open_model(small).vocabulary)
    order = msgspec.json.decode(made._command[-1], type=Order)
    assert order.vocabulary == shared
    assert (made.model.vocabulary, made.model.context, made.model.name) == (shared, 100, "small")


def test_a_model_that_cannot_take_back_what_it_has_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"^\S+ cannot guess, because a model with a recurrent state cannot take back"):
        check_guesser(found(write_case(tmp_path / "mamba.gguf", "mamba")))


def test_a_model_that_llama_cpp_cannot_run_is_refused(tmp_path: Path) -> None:
    folder = write_tiny_hf(tmp_path / "tiny", layers=1, shards=1, model_type="ctrl", architectures=["CTRLLMHeadModel"])
    with pytest.raises(ModelError, match=r"^The llamacpp engine cannot run tiny"):
        check_guesser(found(folder))


def test_a_model_for_which_there_is_no_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Memory:
        available = 100 << 20

    monkeypatch.setattr(psutil, "virtual_memory", Memory)
    large = tiny(tmp_path, "large")
    with pytest.raises(ModelError, match=r"^large needs \d+ MiB of memory to guess, and 100 are free here\.$"):
        make_guesser(found(large), open_model(large), open_tokenizer(large), 100)


def test_a_model_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    large, bare = tiny(tmp_path, "large"), write_tiny_gguf(tmp_path / "bare.gguf", layers=1)
    with pytest.raises(ModelError, match="does not contain a tokenizer"):
        make_guesser(found(bare), open_model(large), open_tokenizer(large), 100)


def test_the_file_of_its_layers_is_kept_as_long_as_it_may_be_loaded(tmp_path: Path) -> None:
    large = tiny(tmp_path, "large")
    before = held_spans()  # by other tests of this process
    made = make_guesser(found(large), open_model(large), open_tokenizer(large), 100)
    assert made.model.name == "large"
    [held] = held_spans() - before
    assert held.stat().st_size > 0


def test_a_hugging_face_model_guesses_too(tmp_path: Path) -> None:
    """Its weights are converted, as they are for nodes."""
    folder = write_tiny_hf(tmp_path / "tiny", layers=2, shards=1, hidden=64)
    write_tiny_tokenizer(folder)
    made = make_guesser(found(folder), open_model(folder), open_tokenizer(folder), 100)

    async def test() -> None:
        async with made.kept():
            await until(lambda: made.model.is_here)
            guesses = [await made.model.open().guess([5, 6, 7], 0) for _ in range(2)]
            assert guesses[0] is not None
            assert 0 <= guesses[0] < made.model.vocabulary
            assert guesses[0] == guesses[1]

    run(test())
