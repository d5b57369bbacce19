import pytest

from potluck.coordinator.http.event_ids import EventId, Numbering
from potluck.errors import RequestError

SECRET = bytes(range(16))


@pytest.mark.parametrize("identity", [EventId(SECRET, (3,)), EventId(b"\xff" * 16, (0, 12, 7), 2)])
def test_an_id_is_read_as_it_was_written(identity: EventId) -> None:
    assert EventId.parse(str(identity)) == identity


def test_an_id_is_short() -> None:
    assert str(EventId(SECRET, (3, 4), 1)) == "AAECAwQFBgcICQoLDA0ODw.3,4.1"


@pytest.mark.parametrize("text", ["", "x", "AAECAwQFBgcICQoLDA0ODw", "AAECAwQFBgcICQoLDA0ODw.", "7.3", f"{'A' * 22}.²"])
def test_what_is_no_id_is_refused(text: str) -> None:
    with pytest.raises(RequestError, match="Last-Event-ID must be"):
        EventId.parse(text)


def test_every_event_has_its_own_id() -> None:
    numbering = Numbering(SECRET, 2)
    told = numbering.numbered(0, b"data: a\n\ndata: b\n\n") + numbering.numbered(1, b"event: x\ndata: c\n\n")
    told += numbering.numbered(None, b"data: end\n\n")
    ids = [EventId(SECRET, (1, 0)), EventId(SECRET, (2, 0)), EventId(SECRET, (2, 1)), EventId(SECRET, (2, 1), 1)]
    said = ["data: a", "data: b", "event: x\ndata: c", "data: end"]
    assert told.decode() == "".join(f"id: {one}\n{event}\n\n" for one, event in zip(ids, said, strict=True))


def test_what_a_client_has_is_left_out() -> None:
    numbering = Numbering(SECRET, 2, EventId(SECRET, (1, 2)))
    assert numbering.numbered(0, b"data: a\n\n") == b""
    assert numbering.numbered(0, b"data: b\n\n").decode() == f"id: {EventId(SECRET, (2, 2))}\ndata: b\n\n"
    assert numbering.numbered(1, b"data: c\n\ndata: d\n\n") == b""
    assert numbering.numbered(1, b"data: e\n\n").decode() == f"id: {EventId(SECRET, (2, 3))}\ndata: e\n\n"
