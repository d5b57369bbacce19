"""Records and news of a fleet: sealed, fresh, and readable by other versions."""

import msgspec
import pytest
from msgspec import Struct

from potluck.coordinator.fleet.records import (
    FRESH_S,
    NEWS,
    Marked,
    ModelRecord,
    Record,
    Told,
    Usage,
    name_of,
    news_of,
    record_of,
    runs_of,
    seal,
    unseal,
)
from potluck.errors import WireError
from potluck.types import Span
from potluck.wire.identity import Identity

FLEET = Identity.fresh()
KEY = b"k" * 32
NAME = name_of(KEY)
MODEL = ModelRecord(("llama",), "d" * 64, 4096, ((1, 3), (0, 2), (2, 1)), True, 4, 5)
RECORD = Record(KEY, "http://10.0.0.1:8470", "0.1.0", 1000.0, 3, 1010.0, (MODEL,))


def test_record_comes_as_it_was_sealed() -> None:
    assert record_of(FLEET.public, NAME, seal(FLEET, NAME, RECORD), 1010.0) == RECORD


def test_model_record_tells_its_layers() -> None:
    assert MODEL.counts == [1, 1, 1, 0, 0, 2]
    assert not MODEL.covered
    assert MODEL.missing == [Span(3, 4)]
    assert runs_of(MODEL.counts) == MODEL.served
    assert msgspec.structs.replace(MODEL, served=((1, 6),)).covered


def test_record_is_some_hundreds_of_bytes() -> None:
    assert len(seal(FLEET, NAME, RECORD)) < 500


@pytest.mark.parametrize("place", ["coordinator.other", "potluck.news"])
def test_what_was_sealed_for_another_place_is_refused(place: str) -> None:
    with pytest.raises(WireError, match="another key"):
        unseal(FLEET.public, place, seal(FLEET, NAME, RECORD))


def test_forged_record_is_refused() -> None:
    with pytest.raises(WireError, match="another key than the fleet's"):
        record_of(FLEET.public, NAME, seal(Identity.fresh(), NAME, RECORD), 1010.0)
    changed = bytearray(seal(FLEET, NAME, RECORD))
    changed[20] ^= 1
    with pytest.raises(WireError):
        record_of(FLEET.public, NAME, bytes(changed), 1010.0)
    with pytest.raises(WireError, match="not sealed"):
        record_of(FLEET.public, NAME, b"{}", 1010.0)


def test_record_under_the_name_of_another_is_refused() -> None:
    other = name_of(b"o" * 32)
    with pytest.raises(WireError, match="another coordinator"):
        record_of(FLEET.public, other, seal(FLEET, other, RECORD), 1010.0)


@pytest.mark.parametrize("now", [1010.0 + FRESH_S + 1, 1010.0 - FRESH_S - 1])
def test_stale_record_is_refused(now: float) -> None:
    with pytest.raises(WireError, match="clocks"):
        record_of(FLEET.public, NAME, seal(FLEET, NAME, RECORD), now)


@pytest.mark.parametrize("news", [Usage({"anna": (5, 3)}, {"key": 0.5}), Marked(b"n" * 32, revoked=True)])
def test_news_come_as_they_were_told(news: Usage | Marked) -> None:
    told = Told(KEY, 1010.0, msgspec.Raw(msgspec.msgpack.encode(news)), 1000.0, 7)
    found, heard = news_of(FLEET.public, seal(FLEET, NEWS, told), 1010.0)
    assert (found.sender, found.age, heard) == (KEY, (1000.0, 7), news)


class LaterModel(ModelRecord, frozen=True):
    colour: str = "blue"


class LaterRecord(Record, frozen=True):
    region: str = "eu"
    limits: tuple[int, ...] = (1, 2)


class Weather(Struct, frozen=True, tag="weather"):
    is_fine: bool = True


def test_record_of_a_later_version_is_read() -> None:
    model = LaterModel(("llama",), "d" * 64, 4096, ((1, 6),))
    later = LaterRecord(KEY, RECORD.url, "9.0.0", 1000.0, 3, 1010.0, (model,))
    found = record_of(FLEET.public, NAME, seal(FLEET, NAME, later), 1010.0)
    assert found.version == "9.0.0"
    assert found.models[0].names == ("llama",)
    assert found.models[0].covered


def test_news_of_a_later_version_are_skipped() -> None:
    told = Told(KEY, 1010.0, msgspec.Raw(msgspec.msgpack.encode(Weather())), 1000.0, 7)
    found, heard = news_of(FLEET.public, seal(FLEET, NEWS, told), 1010.0)
    assert (found.sender, heard) == (KEY, None)
