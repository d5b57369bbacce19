import pytest

from potluck.coordinator.swarm import mover as module
from potluck.coordinator.swarm.mover import Mover
from potluck.planning.cost import RESERVE_BYTES, Footprint
from potluck.planning.machine import Machine, Placed
from potluck.planning.rebalancing import Move
from potluck.types import Span

FLAT = Footprint((1,) * 6, 0, 0)
MOVE = Move("a", Span(3, 5))


def placed(*spans: str) -> list[Placed]:
    pairs = zip("abc", map(Span.parse, spans), strict=False)
    return [Placed(Machine(name, RESERVE_BYTES + 3, 1e9), span) for name, span in pairs]


def test_a_move_is_made_when_it_has_looked_right_three_times() -> None:
    mover = Mover(FLAT)
    assert [mover.look(placed("0-2", "0-2"), {"a"}) for _ in range(3)] == [None, None, MOVE]


def test_another_swarm_in_which_the_same_move_is_right_counts_on() -> None:
    mover = Mover(FLAT)
    mover.look(placed("0-2", "0-2"), {"a"})
    mover.look(placed("0-2", "0-2", "0-2"), {"a"})
    assert mover.look(placed("0-2", "0-2"), {"a"}) == MOVE


def test_whoever_is_back_and_whoever_loads_begin_the_count_anew() -> None:
    mover = Mover(FLAT)
    for interruption in (lambda: mover.look(placed("0-2", "0-2", "3-5"), {"a"}), mover.reset):
        mover.look(placed("0-2", "0-2"), {"a"})
        mover.look(placed("0-2", "0-2"), {"a"})
        interruption()
        assert mover.look(placed("0-2", "0-2"), {"a"}) is None
        mover.reset()


def test_what_has_not_changed_is_not_judged_again(monkeypatch: pytest.MonkeyPatch) -> None:
    judged = []
    monkeypatch.setattr(module, "choose_move", lambda *_: judged.append(1))
    mover = Mover(FLAT)
    for _ in range(10):
        assert mover.look(placed("0-2", "3-5"), {"a"}) is None
    assert len(judged) == 1
    mover.look(placed("0-2", "3-5"), {"a", "b"})
    assert len(judged) == 2
