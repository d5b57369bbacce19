"""What is kept of models: it is listed, limited, used again, and never removed while a process uses it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from filelock import FileLock
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kit.processes import PYTHON, speaking
from kit.tiny_gguf import EXACT, write_tiny_gguf
from kit.tiny_hf import write_tiny_hf
from potluck.errors import IntegrityError, ModelError
from potluck.models.cache import (
    about,
    find_kept,
    kept_models,
    make_room,
    note_model,
    on_disk,
    read_limit,
    remove,
    write_limit,
)
from potluck.models.holds import Hold, is_held
from potluck.models.manifest import Manifest, Tensor
from potluck.models.sources import LocalSource, local_source, open_model
from potluck.models.spancache import SpanCache, Wanted, missing_bytes
from potluck.models.spanfile import download_size, lock_path
from potluck.types import EngineKind, Quantize, Span

LAYERS = 8
"""Spans without the first and the last of these have equal sizes."""


@pytest.fixture
def cache(own_cache) -> Path:
    return own_cache


@pytest.fixture
def model(tmp_path) -> Path:
    return write_tiny_gguf(tmp_path / "tiny.gguf", "llama", layers=LAYERS, dtype=EXACT)


class Counting(LocalSource):
    """A source that counts the bytes it gives of each tensor."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.given: dict[str, int] = {}

    def fetch(self, tensor: Tensor, start: int = 0):
        for chunk in super().fetch(tensor, start):
            self.given[tensor.name] = self.given.get(tensor.name, 0) + len(chunk)
            yield chunk


def wanted(manifest: Manifest, first: int, last: int, quantize: Quantize = Quantize.NONE) -> Wanted:
    return Wanted(manifest, Span(first, last), EngineKind.LLAMACPP, quantize)


def fetch(model: Path, first: int, last: int, used: float | None = None, **options) -> Path:
    """The span file; nobody uses it any more. used: the time when it was last used."""
    spans = SpanCache(9)
    path = spans.fetch(wanted(open_model(model), first, last, **options), local_source(model), lambda _: None)
    spans.release()
    if used is not None:
        os.utime(path, (used, used))
    return path


def spans_in(cache: Path) -> list[str]:
    return [str(held.span) for each in kept_models(cache) for held in each.spans]


def test_what_is_kept_is_listed_with_what_is_known_of_it(cache, model):
    old, new = fetch(model, 0, 1, 1000.0), fetch(model, 2, 5, 2000.0)
    other = fetch(write_tiny_gguf(model.with_name("other.gguf"), layers=2), 0, 0, 500.0)
    tiny, last = kept_models(cache)
    manifest = open_model(model)
    assert (tiny.name, last.name) == ("tiny", "other")
    assert manifest.digest.startswith(tiny.digest)
    assert tiny.about == about(manifest)
    assert tiny.about.nbytes == sum(tensor.nbytes for tensor in manifest.tensors)
    assert (tiny.about.architecture, len(tiny.about.layers), tiny.about.context) == ("llama", LAYERS, 512)
    assert list(tiny.about.types) == ["Q8_0", "F32"]
    assert [(held.path, held.used, held.finished) for held in tiny.spans] == [(old, 1000.0, True), (new, 2000.0, True)]
    assert [held.nbytes for held in tiny.spans] == [on_disk(old.stat()), on_disk(new.stat())]
    assert [held.path for held in last.spans] == [other]


def test_a_model_is_found_by_its_name_or_its_digest(cache, model):
    assert find_kept(cache, "tiny") is None
    fetch(model, 0, 0)
    digest = open_model(model).digest
    assert find_kept(cache, "tiny") == find_kept(cache, digest[:4]) == kept_models(cache)[0]
    assert find_kept(cache, digest[:3]) is None
    (model.parent / "other").mkdir()
    fetch(write_tiny_gguf(model.parent / "other" / "tiny.gguf", layers=2), 0, 0)
    with pytest.raises(ModelError, match=f"2 models in the cache have the name tiny: choose .* {digest[:16]}"):
        find_kept(cache, "tiny")


def test_what_an_older_potluck_has_left_is_listed_by_its_digest(cache, model):
    path = fetch(model, 0, 0)
    (path.parent / "model.json").write_text("{}")
    [kept] = kept_models(cache)
    assert (kept.about, kept.name) == (None, kept.digest[:16])


def test_what_is_no_span_file_is_not_listed(cache, model):
    folder = fetch(model, 0, 0).parent
    for name in ("5-2.gguf", "a.gguf", "1-2.gguf.part.finished", "1-2.gguf.part.header", "99999999999-1.gguf"):
        (folder / name).write_text("x")
    (folder / "3-4.gguf.part").write_text("half")
    [kept] = kept_models(cache)
    assert [(str(held.span), held.finished) for held in kept.spans] == [("0", True), ("3-4", False)]


def test_a_converted_span_says_to_what(cache, tmp_path):
    folder = write_tiny_hf(tmp_path / "hf", layers=2)
    fetch(folder, 0, 1, quantize=Quantize.Q8_0)
    fetch(folder, 0, 1, quantize=Quantize.F16)
    [kept] = kept_models(cache)
    assert [held.kind for held in kept.spans] == ["f16", "q8_0"]


def test_a_removed_span_leaves_nothing(cache, model):
    path = fetch(model, 0, 0)
    path.with_suffix(".x-y.layout").write_text("plain")
    assert remove(path)
    assert list(path.parent.iterdir()) == []
    assert kept_models(cache) == []


# Limits


def test_without_a_limit_all_is_kept(cache, model):
    fetch(model, 0, 0)
    assert read_limit(cache) is None
    assert make_room(cache, 1 << 60) == []


def test_a_limit_is_kept_until_it_is_changed(cache):
    write_limit(cache, 5 << 30)
    assert read_limit(cache) == 5 << 30
    write_limit(cache, None)
    write_limit(cache, None)
    assert read_limit(cache) is None


def test_the_spans_that_were_not_used_for_longest_go_first(cache, model):
    for first, used in ((1, 3000.0), (2, 1000.0), (3, 2000.0)):
        path = fetch(model, first, first, used)
    write_limit(cache, int(3.5 * on_disk(path.stat())))
    fetch(model, 4, 4, 4000.0)
    assert spans_in(cache) == ["1", "3", "4"]
    fetch(model, 3, 3, 5000.0)  # is there, and needs no room
    assert spans_in(cache) == ["1", "3", "4"]
    fetch(model, 5, 5)
    assert spans_in(cache) == ["3", "4", "5"]


def test_what_is_in_use_is_never_removed_for_room(cache, model):
    path = fetch(model, 1, 1, 1000.0)
    hold = Hold(path)
    fetch(model, 2, 2, 2000.0)
    write_limit(cache, int(2.5 * on_disk(path.stat())))
    fetch(model, 3, 3, 3000.0)
    assert spans_in(cache) == ["1", "3"]
    write_limit(cache, on_disk(path.stat()))
    with pytest.raises(ModelError, match=r"need 0\.. MiB beside what is in use, but the cache may hold only 0\.. MiB"):
        fetch(model, 4, 4)
    assert spans_in(cache) == ["1", "3"]  # nothing was removed in vain
    hold.release()


def test_a_span_that_exceeds_the_limit_alone_is_refused_before_anything_is_fetched(cache, model):
    write_limit(cache, 1000)
    source = Counting(model.parent)
    with pytest.raises(ModelError, match="serve fewer layers, or allow more with --cache-limit"):
        SpanCache(4).fetch(wanted(open_model(model), 0, LAYERS - 1), source, lambda _: None)
    assert source.given == {}


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9), st.booleans()), max_size=6), st.integers(0, 40))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
def test_room_is_made_of_as_little_as_possible(tmp_path_factory, files, limit):
    """files: of each its size, the time when it was used, and whether it is in use."""
    cache = tmp_path_factory.mktemp("cache")
    folder = cache / "spans" / "digest"
    folder.mkdir(parents=True)
    holds = []
    for number, (nbytes, used, busy) in enumerate(files):
        path = folder / f"{number}-{number}.gguf"
        path.write_bytes(bytes(nbytes))
        os.utime(path, (used, used))
        holds += [Hold(path)] if busy else []
    write_limit(cache, limit)
    before = [held for each in kept_models(cache) for held in each.spans]
    busy_bytes = sum(nbytes for nbytes, _, busy in files if busy)
    try:
        gone = make_room(cache, 10)
    except ModelError:
        assert busy_bytes + 10 > limit
        gone = []
        assert [held for each in kept_models(cache) for held in each.spans] == before
    else:
        left = [held for held in before if held not in gone]
        assert sum(held.nbytes for held in left) + 10 <= limit
        if gone:  # one fewer would not have been enough
            assert sum(held.nbytes for held in [*left, gone[-1]]) + 10 > limit
        idle = [held for held in left if not is_held(held.path)]
        assert all(each.used <= other.used for each in gone for other in idle)
    for hold in holds:
        hold.release()


# Who uses what


def test_a_file_is_held_as_long_as_one_of_its_users_is_there(model):
    path = fetch(model, 0, 0)
    assert not is_held(path)
    one, two = Hold(path), Hold(path)
    assert is_held(path)
    assert not remove(path)
    one.release()
    assert is_held(path)
    two.release()
    assert not is_held(path)
    assert not list(lock_path(path).parent.glob(f"{lock_path(path).stem}*.use"))
    assert remove(path)


def test_another_process_holds_it_until_it_ends_whatever_its_end(model):
    path = fetch(model, 0, 0)
    program = "import sys; from pathlib import Path; from potluck.models.holds import Hold\n"
    program += "hold = Hold(Path(sys.argv[1])); print('held', flush=True); sys.stdin.read()"
    with speaking(*PYTHON, "-c", program, path) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        assert is_held(path)
        assert not remove(path)
        process.kill()
    assert not is_held(path)
    assert remove(path)


def test_a_file_that_is_being_written_is_not_removed(model):
    path = fetch(model, 0, 0)
    with FileLock(lock_path(path)):
        assert not remove(path)
    assert path.exists()


def test_the_latest_span_of_a_node_is_in_use(model):
    spans, manifest = SpanCache(9), open_model(model)
    one = spans.fetch(wanted(manifest, 0, 0), local_source(model), lambda _: None)
    assert is_held(one)
    two = spans.fetch(wanted(manifest, 1, 1), local_source(model), lambda _: None)
    assert not is_held(one)
    assert is_held(two)
    spans.release()
    assert not is_held(two)


# Used again


def test_layers_that_another_span_file_holds_are_not_fetched_again(model, tmp_path):
    manifest, source = open_model(model), Counting(model.parent)
    fetch(model, 0, LAYERS - 1)
    middle = wanted(manifest, 2, 3)
    assert missing_bytes(middle) == 0 < download_size(middle.plan()[1])
    path = SpanCache(9).fetch(middle, source, lambda _: None)
    assert source.given == {}
    again = wanted(manifest, 2, 3)
    content = path.read_bytes()
    remove_all(path.parent)
    SpanCache(9).fetch(again, source, lambda _: None)
    assert sum(source.given.values()) == download_size(again.plan()[1])
    assert path.read_bytes() == content


def remove_all(folder: Path) -> None:
    for file in folder.iterdir():
        file.unlink()


def test_only_what_is_missing_is_fetched(model):
    manifest, source = open_model(model), Counting(model.parent)
    fetch(model, 0, 2)
    span = wanted(manifest, 1, 4)
    assert missing_bytes(span) == sum(manifest.layer_bytes()[3:5])
    SpanCache(9).fetch(span, source, lambda _: None)
    assert source.given == {each.name: each.nbytes for each in manifest.tensors if each.layer in (3, 4)}


def test_a_damaged_byte_in_another_span_file_is_noticed(model):
    manifest, source = open_model(model), Counting(model.parent)
    whole = fetch(model, 0, LAYERS - 1)
    content = bytearray(whole.read_bytes())
    content[len(content) // 2] ^= 1
    whole.write_bytes(content)
    path = SpanCache(9).fetch(wanted(manifest, 1, LAYERS - 1), source, lambda _: None)
    assert len(source.given) == 1
    remove_all(path.parent)
    before = path
    assert SpanCache(9).fetch(wanted(manifest, 1, LAYERS - 1), local_source(model), lambda _: None) == before


@pytest.mark.parametrize("damage", [b"", b"GGUF", b"x" * 5000])
def test_another_span_file_that_is_broken_is_left_alone(model, damage):
    manifest, source = open_model(model), Counting(model.parent)
    fetch(model, 0, 2).write_bytes(damage)
    SpanCache(9).fetch(wanted(manifest, 1, 1), source, lambda _: None)
    assert sum(source.given.values()) == manifest.layer_bytes()[1]


def test_a_span_in_a_cache_that_may_only_be_read_is_used(cache, model, monkeypatch):
    path = fetch(model, 1, 2)
    (path.parent / "model.json").unlink()
    monkeypatch.setattr(os, "access", lambda *_: False)  # for root, who may write everywhere, too
    assert fetch(model, 1, 2) == path
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_bytes_that_are_never_right_leave_nothing(cache, model):
    manifest = open_model(model)
    model.write_bytes(model.read_bytes()[:-5000] + bytes(5000))
    with pytest.raises(IntegrityError):
        SpanCache(9).fetch(wanted(manifest, 0, LAYERS - 1), local_source(model), lambda _: None)
    assert [file for file in (cache / "spans").rglob("*") if file.is_file()] == []


def test_a_note_that_cannot_be_written_is_told(cache, model):
    (cache / "spans").write_text("a file")
    with pytest.raises(ModelError, match=r"model\.json cannot be written"):
        note_model(cache / "spans" / "digest", open_model(model))
