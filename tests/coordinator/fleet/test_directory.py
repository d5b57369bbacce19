"""What a coordinator knows of the others."""

from msgspec.structs import replace

from potluck.coordinator.fleet.directory import LEASE_S, Directory
from potluck.coordinator.fleet.records import ModelRecord, Record

OWN, B, C = b"a" * 32, b"b" * 32, b"c" * 32
MODEL = ModelRecord(("llama", "l"), "d" * 64, 4096, ((1, 6),), waiting=1)


def record(key: bytes = B, number: int = 1, started: float = 10.0, **model: object) -> Record:
    return Record(key, f"http://{key[:1].decode()}", "1", started, number, 10.0, (replace(MODEL, **model),))


def test_record_counts_until_its_lease_ends() -> None:
    directory = Directory(OWN)
    assert directory.note(record(), 100.0)
    assert directory.others(100.0 + LEASE_S) == [record()]
    assert directory.others(100.1 + LEASE_S) == []
    assert directory.forget(100.1 + LEASE_S)
    assert not directory.forget(100.1 + LEASE_S)
    assert directory.note(record(number=2), 200.0)


def test_renewed_record_changes_only_what_it_says() -> None:
    directory = Directory(OWN)
    directory.note(record(), 100.0)
    assert not directory.note(record(number=2, waiting=7), 101.0)
    assert directory.others(101.0)[0].models[0].waiting == 7
    assert directory.note(record(number=3, served=((0, 6),)), 102.0)


def test_older_record_changes_nothing() -> None:
    directory = Directory(OWN)
    directory.note(record(number=5), 100.0)
    assert not directory.note(record(number=4, served=((0, 6),)), 101.0)
    assert not directory.note(record(number=9, started=9.0, served=((0, 6),)), 101.0)  # of an earlier run
    assert directory.others(101.0) == [record(number=5)]
    assert directory.note(record(number=1, started=11.0, served=((0, 6),)), 101.0)


def test_own_record_is_no_other_coordinators() -> None:
    directory = Directory(OWN)
    assert not directory.note(record(OWN), 100.0)
    assert directory.others(100.0) == []


def test_requests_that_were_sent_count_until_the_next_record() -> None:
    directory = Directory(OWN)
    directory.note(record(), 100.0)
    directory.sent(B, "l")
    directory.sent(B, "llama")
    directory.sent(B, "unknown")
    directory.sent(C, "llama")
    [(_, model)] = directory.answering("llama", 100.0)
    assert model.waiting == 3
    directory.note(record(number=2), 101.0)
    [(_, model)] = directory.answering("llama", 101.0)
    assert model.waiting == 1


def test_coordinator_that_does_not_answer_is_left_out_for_a_while() -> None:
    directory = Directory(OWN)
    directory.note(record(), 100.0)
    directory.note(record(C), 100.0)
    directory.shun(B, 100.0)
    directory.note(record(number=2), 101.0)
    assert [found.key for found, _ in directory.answering("llama", 102.0)] == [C]
    assert [found.key for found, _ in directory.answering("llama", 103.5)] == [B, C]
    assert directory.answering("other", 103.5) == []
