"""No clock: the test says what time it is."""

from collections.abc import Sequence

from potluck.coordinator.relay.relay import Awaited
from potluck.coordinator.swarm.events import Revived, Stalled
from potluck.coordinator.swarm.heartbeat import LOOK_S, Ask, Heartbeat
from potluck.coordinator.swarm.measure import Measure

QUICK = Measure(token_s=0.01, row_s=0.001, forward_s=0.01)


class Room:
    """A node "n1" and someone who looks after it."""

    def __init__(self, measure: Measure = QUICK) -> None:
        self.heartbeat = Heartbeat()
        self.now = 100.0
        self.measure = measure
        self.heartbeat.heard("n1", self.now)

    def pass_time(
        self, seconds: float, steps: Sequence[Awaited] = (), talking: bool = False
    ) -> list[Stalled | Revived | Ask]:
        """What is found meanwhile; pings are only answered when the node is talking."""
        found: list[Stalled | Revived | Ask] = []
        for _ in range(round(seconds / LOOK_S)):
            self.now += LOOK_S
            if talking:
                self.heartbeat.heard("n1", self.now)
            found += self.heartbeat.look(self.now, steps, {"n1": self.measure})
        return found

    def step(self, rows: int = 1) -> list[Awaited]:
        return [Awaited("n1", rows, self.now)]


def stalls(found: Sequence[object]) -> list[str]:
    return [event.reason for event in found if isinstance(event, Stalled)]


def test_a_node_without_work_is_asked_now_and_then_whether_it_lives() -> None:
    room = Room()
    assert room.pass_time(4.0) == []
    assert room.pass_time(1.25) == [Ask("n1")]


def test_a_frozen_node_is_passed_over_within_two_seconds() -> None:
    room = Room()
    room.pass_time(1.0, talking=True)
    [ask, stalled] = room.pass_time(1.75, room.step())
    assert ask == Ask("n1")
    assert isinstance(stalled, Stalled)
    assert stalled.reason.startswith("it has been silent for 1.")


def test_a_frozen_node_without_work_is_passed_over_when_it_does_not_answer() -> None:
    assert stalls(Room().pass_time(8.0))


def test_a_node_with_a_long_computation_is_given_time() -> None:
    room = Room(Measure(token_s=2.0, row_s=0.5, forward_s=2.0))
    assert not stalls(room.pass_time(9.0, room.step()))
    assert stalls(room.pass_time(1.0, room.step()))


def test_a_node_that_talks_but_does_not_answer_is_passed_over_in_the_end() -> None:
    room = Room()
    steps = room.step()
    assert not stalls(room.pass_time(10.0, steps, talking=True))
    [reason] = stalls(room.pass_time(1.0, steps, talking=True))
    assert reason.startswith("a step has taken 10.")


def test_many_rows_may_take_longer() -> None:
    room = Room()
    steps = 32 * room.step(rows=64)
    assert not stalls(room.pass_time(28.0, steps, talking=True))
    assert stalls(room.pass_time(4.0, steps, talking=True))


def test_a_node_that_is_back_is_used_again() -> None:
    room = Room()
    assert stalls(room.pass_time(2.0, room.step()))
    assert Revived("n1") not in room.pass_time(5.0)
    assert Revived("n1") in room.pass_time(LOOK_S, talking=True)


def test_each_stall_costs_more_than_the_one_before() -> None:
    room, waits = Room(), []
    for _ in range(4):
        while not stalls(room.pass_time(LOOK_S, [Awaited("n1", 1, room.now - 60)], talking=True)):
            pass
        began = room.now
        while Revived("n1") not in room.pass_time(LOOK_S, talking=True):
            pass
        waits.append(room.now - began)
    assert waits == [1.0, 2.0, 4.0, 8.0]


def test_when_the_coordinator_itself_slept_nobody_is_blamed() -> None:
    room = Room()
    steps = room.step()
    room.pass_time(LOOK_S, steps)
    room.now += 60.0
    assert room.heartbeat.look(room.now, steps, {"n1": QUICK}) == []
    room.heartbeat.heard("n1", room.now)
    assert not stalls(room.pass_time(LOOK_S, steps, talking=True)[1:])


def test_a_node_that_went_is_forgotten() -> None:
    room = Room()
    assert stalls(room.pass_time(2.0, room.step()))
    room.heartbeat.forget("n1")
    assert room.pass_time(1.0) == []


def test_what_a_node_says_of_its_computations_buys_it_half_a_minute_of_silence() -> None:
    room = Room(Measure(token_s=1e9, row_s=1e9, forward_s=1e9))
    assert not stalls(room.pass_time(30.0, room.step()))
    assert stalls(room.pass_time(3.0, room.step()))


def test_a_node_that_cannot_run_steps_is_passed_over() -> None:
    room = Room()
    for _ in range(4):
        room.heartbeat.ran("n1", room.now, failed=True)
    room.heartbeat.ran("n1", room.now, failed=False)
    for _ in range(4):
        room.heartbeat.ran("n1", room.now, failed=True)
    assert not stalls(room.pass_time(1.0, talking=True))
    room.heartbeat.ran("n1", room.now, failed=True)
    assert stalls(room.pass_time(1.0, talking=True)) == ["it could not run 5 steps in a row"]


def test_a_node_that_did_well_for_long_is_as_good_as_new() -> None:
    room = Room()
    for _ in range(6):
        room.pass_time(8.0)
        room.pass_time(62.0, talking=True)
    room.pass_time(130.0, talking=True)
    room.pass_time(8.0)
    [revived] = room.pass_time(1.5, talking=True)
    assert isinstance(revived, Revived)


def test_nobody_is_blamed_for_the_coordinators_own_naps() -> None:
    room = Room()
    steps = room.step()
    room.pass_time(LOOK_S, steps)
    for _ in range(3):  # it is held up again and again, each time for less than makes a look too late to judge
        room.now += LOOK_S + 0.7
        assert stalls(room.heartbeat.look(room.now, steps, {"n1": QUICK})) == []


def test_a_silent_node_is_found_in_spite_of_naps() -> None:
    room = Room()
    steps = room.step()
    found = []
    for _ in range(8):
        room.now += LOOK_S + 0.7
        found += stalls(room.heartbeat.look(room.now, steps, {"n1": QUICK}))
    assert len(found) == 1
    assert found[0].startswith("it has been silent for 1.")
