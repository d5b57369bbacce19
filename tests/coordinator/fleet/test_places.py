"""Where a request is served: here, or at one of the others."""

from msgspec.structs import replace

from potluck.coordinator.fleet.fleet import Fleet
from potluck.coordinator.fleet.nats_bus import NatsBus
from potluck.coordinator.fleet.places import Places
from potluck.coordinator.fleet.records import ModelRecord, Record
from potluck.wire.identity import Identity

MODEL = ModelRecord(("llama", "l"), "d" * 64, 4096, ((1, 6),))
OTHER = ModelRecord(("gpt", "g"), "e" * 64, 4096, ((1, 6),))
BROKEN = ((0, 6),)


def places(*own: ModelRecord, **others: ModelRecord) -> Places:
    """Those of a fleet. others: the model of each other coordinator, by its name."""
    fleet = Fleet(NatsBus(("nats://127.0.0.1:1",)), Identity.fresh(), b"a" * 32, "http://a", clock=lambda: 0.0)
    fleet.own_models = own
    for name, model in others.items():
        fleet.directory.note(Record(name.encode() * 32, f"http://{name}", "1", 1.0, 1, 1.0, (model,)), 0.0)
    return Places(fleet, lambda: 0.0)


def better(found: Places, name: str = "llama") -> list[str]:
    return [record.url for record in found.better(name)]


def test_request_stays_where_its_model_is_served() -> None:
    assert better(places(MODEL, b=MODEL)) == []
    assert better(places(MODEL)) == []


def test_request_goes_where_its_model_is_covered() -> None:
    assert better(places(replace(MODEL, served=BROKEN), b=MODEL, c=replace(MODEL, served=BROKEN))) == ["http://b"]
    assert better(places(b=OTHER, c=MODEL)) == ["http://c"]
    assert better(places(b=OTHER, c=MODEL), "g") == ["http://b"]


def test_requests_under_way_count_before_the_record_knows_them() -> None:
    found = places(MODEL, b=MODEL)
    found.under_way["llama"] = 5
    assert better(found, "l") == ["http://b"]
    [target] = found.better("l")
    found.sent(target, "l")
    assert better(found, "l") == []
    found.under_way["llama"] = 7
    assert better(found, "l") == ["http://b"]


def test_requests_under_way_and_sessions_are_the_same_ones() -> None:
    found = places(replace(MODEL, streams=4), b=MODEL)
    found.under_way["llama"] = 4
    assert better(found) == []


def test_coordinator_that_did_not_answer_is_passed_by() -> None:
    found = places(b=MODEL, c=MODEL)
    [first, second] = found.better("llama")
    found.shun(first)
    assert found.better("llama") == [second]


def test_each_model_of_the_others_is_listed_once() -> None:
    found = places(MODEL, b=OTHER, c=OTHER, d=MODEL)
    assert [(model.names, since) for model, since in found.elsewhere()] == [(("gpt", "g"), 1.0)]
