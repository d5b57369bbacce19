"""Replies that are hostile: too many bytes, compressed, slow, or led elsewhere without end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kit.hostile import Hostile, Reply
from potluck.errors import ModelError
from potluck.models import http_source
from potluck.models.http_source import CoordinatorSource, HubSource, Pace


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch):
    monkeypatch.setattr(http_source, "_FIRST_PAUSE_S", 0.0)


@pytest.fixture
def source_of() -> Iterator[Callable[[Reply], CoordinatorSource]]:
    with ExitStack() as stack:

        def start(reply: Reply) -> CoordinatorSource:
            url = stack.enter_context(Hostile("", lambda *_: reply).running())
            return stack.enter_context(closing(CoordinatorSource(url)))

        yield start


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "zstd", "gzip, identity"])
def test_nothing_compressed_is_taken(source_of, encoding):
    source = source_of(Reply(b"{}", 200, {"Content-Encoding": encoding}))
    with pytest.raises(ModelError, match="compresses the manifest, although it was asked not to"):
        source.manifest()
    source = source_of(Reply(b"{}", 206, {"Content-Encoding": encoding}))
    with pytest.raises(ModelError, match=r"compresses a\.gguf"):
        list(source.stream("a.gguf", 0, 2))


def test_more_bytes_than_were_asked_for_are_not_taken(source_of):
    source = source_of(Reply(b"12345", 206, endless=True))
    with pytest.raises(ModelError, match=r"sends more bytes of a\.gguf than there can be"):
        list(source.stream("a.gguf", 0, 12))


def test_a_manifest_without_end_is_not_taken(source_of, monkeypatch):
    monkeypatch.setattr(http_source, "MOST_BYTES", 1 << 16)
    with pytest.raises(ModelError, match="sends more bytes of the manifest than there can be"):
        source_of(Reply(b" " * 1000, endless=True)).manifest()


def test_a_reply_that_trickles_counts_as_broken(source_of, monkeypatch):
    monkeypatch.setattr(http_source, "_LEAST_S", -1.0)
    source = source_of(Reply(b"1", 206))
    with pytest.raises(ModelError, match=r"The download of a\.gguf broke 6 times: a\.gguf comes too slowly"):
        list(source.stream("a.gguf", 0, 10))
    with pytest.raises(ModelError, match="gives no manifest: the manifest comes too slowly"):
        source_of(Reply(b"1")).manifest()


def test_a_redirect_is_not_read_without_end(source_of):
    source = source_of(Reply(b"x" * 1000, 307, {"Location": "/files/b.gguf"}, endless=True))
    with pytest.raises(ModelError, match="redirects more than 5 times"):
        list(source.stream("a.gguf", 0, 10))


@pytest.mark.parametrize("location", ["", "//", "http://[", "x" * 10_000, "http://127.0.0.1:0/", "file:///etc/passwd"])
def test_a_redirect_to_nowhere_is_refused(source_of, location):
    with pytest.raises(ModelError):
        source_of(Reply(b"", 307, {"Location": location})).manifest()


@pytest.mark.parametrize(
    ("commit", "siblings"),
    [
        ("../../../etc", b"[]"),
        ("7" * 40, b"{}7"),
        ("7" * 40, b'[{"rfilename": 7, "size": 7}]'),
        ("7" * 40, b'[{"rfilename": ["a"], "size": 7}]'),
        ("7" * 40, b'[{"rfilename": "a.gguf", "size": Infinity}]'),
        ("7" * 40, b'[{"rfilename": "a.gguf", "size": -1}]'),
        ("7" * 40, b'[{"rfilename": "a.gguf", "size": null}]'),
        ("7" * 40, b'[{"rfilename": "a.gguf"}]'),
        ("7" * 40, b'[["a.gguf", 7]]'),
    ],
)
def test_a_hub_whose_list_is_none_is_refused(commit, siblings):
    listing = b'{"sha": "%s", "siblings": %s}' % (commit.encode(), siblings)
    with Hostile("", lambda *_: Reply(listing)).running() as url, pytest.raises(ModelError, match="gives no list"):
        HubSource("someone/tiny", endpoint=url)


@given(st.lists(st.tuples(st.integers(1, http_source._LEAST_BYTES), st.floats(0, 30)), max_size=50))
def test_pace_is_kept_exactly_while_enough_comes_in_time(chunks):
    pace, now, since, came = Pace(0.0), 0.0, 0.0, 0
    for nbytes, seconds in chunks:
        now, came = now + seconds, came + nbytes
        if came >= http_source._LEAST_BYTES:
            since, came = now, 0
        assert pace.keeps(nbytes, now) == (now - since <= http_source._LEAST_S)


@pytest.mark.parametrize(
    "body",
    [b"", b"<html>Service Unavailable</html>", b'{"error": "busy"}', b"[]", b'{"error": {"message": 1}}', b"x" * 9999],
)
def test_a_503_without_a_reason_is_a_broken_connection(source_of, body):
    for headers in ({"Content-Type": "application/json"}, {"Content-Type": "text/html"}):
        source = source_of(Reply(body, 503, headers))
        with pytest.raises(ModelError, match=r"The download of a\.gguf broke 6 times: The coordinator answers 503"):
            list(source.stream("a.gguf", 0, 10))


def test_weights_that_are_away_are_waited_for_and_the_owner_is_told(caplog):
    caplog.set_level("INFO")
    away = Reply(b'{"error": {"message": "The file is\\u001b missing."}}', 503, {"Content-Type": "application/json"})
    replies = [*[away] * 9, Reply(b"01234", 206), *[away] * 9, Reply(b"56789", 206)]
    with (
        Hostile("", lambda *_: replies.pop(0)).running() as url,
        closing(CoordinatorSource(url)) as source,
    ):
        source._pause_s = 0.0
        # Whoever asks for a part of it gets that part.
        assert b"".join(source.stream("a.gguf", 0, 5)) + b"".join(source.stream("a.gguf", 5, 5)) == b"0123456789"
    told = ["The file is missing. Waiting for it.", "The download goes on."]
    assert [record.getMessage() for record in caplog.records if record.name.startswith("potluck")] == told * 2
