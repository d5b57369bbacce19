"""The span files of a node: which of them stay when its coordinator asks for more and more."""

import os
from pathlib import Path

import pytest
from filelock import FileLock

from kit.tiny_gguf import write_tiny_gguf
from potluck.errors import TicketExpired
from potluck.models.sources import local_source, open_model
from potluck.models.spancache import SpanCache
from potluck.models.spanfile import finished_path, lock_path, part_path, write_span_file
from potluck.models.spans import plan_span
from potluck.types import Span

LONG_AGO = 1_000_000_000


@pytest.fixture
def model(tmp_path) -> Path:
    return write_tiny_gguf(tmp_path / "tiny.gguf", "llama", layers=1)


@pytest.fixture
def folder(tmp_path) -> Path:
    folder = tmp_path / "spans"
    folder.mkdir()
    return folder


def write(model: Path, path: Path) -> None:
    write_span_file(path, *plan_span(open_model(model), Span(0, 0)), local_source(model), lambda _: None)


def use(cache: SpanCache, model: Path, *paths: Path) -> None:
    for path in paths:
        with cache.using(path):
            write(model, path)
            os.utime(path, (LONG_AGO, LONG_AGO))


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


def test_only_the_files_that_were_used_last_are_kept(model, folder):
    write(model, folder / "earlier")
    cache = SpanCache(2)
    use(cache, model, folder / "a", folder / "b", folder / "a", folder / "c")
    assert names(folder) == ["a", "c", "earlier"]
    use(cache, model, folder / "d", folder / "e")
    assert names(folder) == ["d", "e", "earlier"]


def test_an_unfinished_file_is_removed_with_its_list(model, folder):
    cache, path = SpanCache(2), folder / "a"
    part_path(path).write_bytes(b"half")
    finished_path(path).write_text("a piece")
    with pytest.raises(TicketExpired), cache.using(path):
        raise TicketExpired("The coordinator no longer knows this node's ticket.")
    use(cache, model, folder / "b")
    assert names(folder) == ["a.part", "a.part.finished", "b"]
    use(cache, model, folder / "c")
    assert names(folder) == ["b", "c"]


def test_what_another_node_of_this_machine_has_used_since_is_its_own(model, folder):
    cache, other = SpanCache(1), SpanCache(1)
    use(cache, model, folder / "a")
    with other.using(folder / "a"):
        write(model, folder / "a")  # it is there, and only its time changes
    use(cache, model, folder / "b")
    assert names(folder) == ["a", "b"]
    use(other, model, folder / "c")
    assert names(folder) == ["b", "c"]


def test_what_another_node_is_writing_is_kept_without_waiting_for_it(model, folder):
    cache = SpanCache(1)
    use(cache, model, folder / "a")
    with FileLock(lock_path(folder / "a")):
        use(cache, model, folder / "b")
    assert names(folder) == ["a", "b"]


def test_a_file_that_cannot_be_removed_is_told_and_stops_nothing(model, folder, caplog):
    cache, path = SpanCache(1), folder / "a"
    with cache.using(path):
        path.mkdir()
    use(cache, model, folder / "b")
    assert f"{path} cannot be removed" in caplog.text
