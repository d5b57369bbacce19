from potluck.coordinator.allowance import Allowance
from potluck.errors import WireError


def taken(allowance: Allowance, now: float) -> int:
    """How many frames pass at this moment."""
    count = 0
    while True:
        try:
            allowance.take(now)
        except WireError:
            return count
        count += 1


def test_a_burst_passes_and_a_flood_does_not() -> None:
    assert 100 <= taken(Allowance(5.0), 5.0) <= 1000


def test_what_honest_nodes_say_passes_for_ever() -> None:
    allowance = Allowance(0.0)
    for tenth in range(100_000):
        allowance.take(tenth / 10)


def test_silence_saves_no_more_than_a_burst() -> None:
    assert taken(Allowance(0.0), 1e6) == taken(Allowance(0.0), 0.0)
