"""When an offered model keeps its nodes, and when others may have them."""

from __future__ import annotations

import math

import pytest

from potluck.coordinator.sessions.demand import Demand, ModelState, Times

TIMES = Times(idle_s=300, stay_s=120)


def offered() -> Demand:
    return Demand(always=False, times=TIMES)


def test_a_model_that_nobody_asked_for_has_no_claim() -> None:
    assert offered().may_go(0)
    assert not offered().asked


def test_what_is_served_at_all_times_is_never_given_away() -> None:
    demand = Demand()
    demand.look(0, busy=False, covered=True)
    assert not demand.may_go(1e9)
    assert demand.asked


@pytest.mark.parametrize(("now", "may_go"), [(100, False), (399, False), (400, True)])
def test_it_keeps_its_nodes_for_a_while_after_its_last_request(now: float, may_go: bool) -> None:
    demand = offered()
    for moment in (0, 50, 100):
        demand.look(moment, busy=True, covered=True)
    demand.look(101, busy=False, covered=True)
    assert demand.may_go(now) == may_go


@pytest.mark.parametrize(("now", "may_go"), [(401, False), (520, True)])
def test_it_keeps_them_for_a_while_once_it_is_covered_although_nobody_waits_any_more(now: float, may_go: bool) -> None:
    demand = offered()
    demand.look(0, busy=True, covered=False)
    demand.look(400, busy=False, covered=True)
    assert demand.may_go(now) == may_go


def test_two_that_are_wanted_in_turns_do_not_take_nodes_from_each_other_at_every_request() -> None:
    holder, moments = offered(), range(0, 3600, 60)
    for now in moments:  # a request each minute
        holder.look(now, busy=True, covered=True)
        assert not holder.may_go(now + 59)


def test_who_waits_longest_is_known() -> None:
    demand = offered()
    assert demand.since == math.inf
    for now in (5, 6):
        demand.look(now, busy=True, covered=False)
    assert demand.since == 5
    demand.look(7, busy=True, covered=True)
    assert demand.since == math.inf


@pytest.mark.parametrize(
    ("always", "missing", "loading", "waiting", "state"),
    [
        (True, False, False, False, ModelState.READY),
        (False, False, True, False, ModelState.READY),
        (True, True, True, False, ModelState.LOADING),
        (False, True, True, True, ModelState.LOADING),
        (True, True, False, False, ModelState.INCOMPLETE),
        (False, True, False, True, ModelState.INCOMPLETE),
        (False, True, False, False, ModelState.OFFERED),
    ],
)
def test_states(always: bool, missing: bool, loading: bool, waiting: bool, state: ModelState) -> None:
    demand = Demand(always=always, times=TIMES)
    assert demand.state(missing=missing, loading=loading, waiting=waiting) == state
