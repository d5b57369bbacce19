"""Whose job is next."""

from hypothesis import given
from hypothesis import strategies as st

from potluck.coordinator.http.rota import Asker, Rota

ANN, BEN, CEM = Asker("ann"), Asker("ben"), Asker("cem")
STRANGERS = [Asker(f"address {number}", stranger=True) for number in range(5)]


def begun(rota: Rota[str]) -> list[str]:
    """The jobs that begin now, until no worker is free or no job may begin."""
    jobs = []
    while (one := rota.begin()) is not None:
        jobs.append(one[1])
    return jobs


def test_accounts_take_turns_with_one_job_each() -> None:
    rota = Rota[str](2, 9)
    for asker in (ANN, BEN, CEM):
        for number in range(3 if asker is ANN else 1):
            assert rota.add(asker, f"{asker.name} {number}")
    assert begun(rota) == ["ann 0", "ben 0"]
    rota.end(ANN)
    assert begun(rota) == ["cem 0"]
    rota.end(BEN)
    assert begun(rota) == ["ann 1"]
    rota.end(CEM)
    assert begun(rota) == []  # ann has one job already
    rota.end(ANN)
    assert begun(rota) == ["ann 2"]


def test_who_asks_much_waits_only_for_its_own() -> None:
    rota = Rota[str](2, 1000)
    for number in range(1000):
        assert rota.add(ANN, f"ann {number}")
    assert begun(rota) == ["ann 0"]
    rota.add(BEN, "ben")
    assert begun(rota) == ["ben"]


def test_too_many_waiting_jobs_are_turned_away() -> None:
    rota = Rota[str](2, 2)
    assert [rota.add(ANN, str(number)) for number in range(3)] == [True, True, False]
    assert rota.add(BEN, "ben")
    assert begun(rota) == ["0", "ben"]
    assert rota.add(ANN, "3")


def test_a_dropped_job_never_begins_and_makes_room() -> None:
    rota = Rota[str](2, 1)
    rota.add(ANN, "one")
    rota.drop(ANN, "one")
    rota.drop(ANN, "one")
    assert rota.begin() is None
    assert rota.add(ANN, "two")
    assert begun(rota) == ["two"]
    rota.drop(ANN, "two")  # it runs, and must be ended
    rota.add(ANN, "three")
    assert rota.begin() is None
    rota.end(ANN)
    assert begun(rota) == ["three"]


def test_strangers_come_last_and_leave_a_worker() -> None:
    rota = Rota[str](2, 9)
    for stranger in STRANGERS:
        rota.add(stranger, stranger.name)
    assert begun(rota) == ["address 0"]
    rota.add(ANN, "ann")
    assert begun(rota) == ["ann"]
    rota.add(BEN, "ben")
    rota.end(STRANGERS[0])
    assert begun(rota) == ["ben"]
    rota.end(ANN)
    assert begun(rota) == ["address 1"]


@given(st.lists(st.tuples(st.sampled_from("ade"), st.sampled_from([ANN, BEN, *STRANGERS[:2]])), max_size=60))
def test_every_job_runs_once_or_is_dropped(moves: list[tuple[str, Asker]]) -> None:
    rota, waiting, running = Rota[str](2, 3), dict[str, Asker](), dict[Asker, str]()
    for number, (move, asker) in enumerate(moves):
        if move == "a":
            mine = list(waiting.values()).count(asker)
            assert rota.add(asker, str(number)) == (mine < 3)
            if mine < 3:
                waiting[str(number)] = asker
        elif move == "d":
            job = next((job for job, one in waiting.items() if one == asker), "none")
            rota.drop(asker, job)
            waiting.pop(job, None)
        elif asker in running:
            rota.end(asker)
            del running[asker]
        while (one := rota.begin()) is not None:
            assert waiting.pop(one[1]) == one[0]
            assert one[0] not in running
            running[one[0]] = one[1]
        assert len(running) <= 2
        assert sum(one.stranger for one in running) <= 1
    while running:
        rota.end(next(iter(running)))
        del running[next(iter(running))]
        while (one := rota.begin()) is not None:
            running[one[0]] = one[1]
            del waiting[one[1]]
    assert waiting == {}
