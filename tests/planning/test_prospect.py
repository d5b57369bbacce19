"""What a newcomer adds: never less than there was, and what a plan of the same machines says."""

from collections.abc import Callable
from random import Random

import msgspec
import pytest

from kit.random_swarms import random_cut_footprint, random_footprint, random_machine
from potluck.planning.cost import RESERVE_BYTES, Footprint
from potluck.planning.forecast import forecast
from potluck.planning.machine import Machine, Placed
from potluck.planning.placement import best_span
from potluck.planning.prospect import outlook, prospect
from potluck.types import Outlook, Prospect, Span

FOOTPRINT = Footprint((100,) * 4, entry=50, head=200)


def placed(span: str, bytes_per_s: float) -> Placed:
    return Placed(Machine(span, RESERVE_BYTES + 650, bytes_per_s), Span.parse(span))


def covered(told: Outlook, layers: int) -> set[int]:
    return {layer for layer in range(layers) if not any(layer in span for span in told.missing)}


def test_who_brings_the_last_layers_brings_the_speed() -> None:
    told = prospect(FOOTPRINT, [placed("0-1", 1000.0)], placed("2-3", 400.0))
    assert told.without == Outlook((Span(2, 3),), 0.0, 0.0)
    assert (told.joined.missing, told.joined.one_stream, told.joined.many_streams) == ((), pytest.approx(1 / 1.2), 1.0)


def test_an_empty_swarm_lacks_everything() -> None:
    assert outlook(FOOTPRINT, []) == Outlook((Span(0, 3),), 0.0, 0.0)


@pytest.mark.parametrize("model", [random_footprint, random_cut_footprint])
@pytest.mark.parametrize("seed", range(60))
def test_a_newcomer_takes_nothing_away(model: Callable[[Random, int], Footprint], seed: int) -> None:
    random = Random(seed)
    layers = random.randint(1, 12)
    footprint = model(random, layers)
    there: list[Placed] = []
    for number in range(random.randint(1, 8)):
        machine = random_machine(random, str(number))
        span = best_span(footprint, there, machine)
        if span is None:
            continue
        newcomer = Placed(machine, span)
        told = prospect(footprint, there, newcomer)
        assert msgspec.msgpack.decode(msgspec.msgpack.encode(told), type=Prospect) == told
        assert covered(told.without, layers) <= covered(told.joined, layers)
        assert set(range(span.first, span.last + 1)) <= covered(told.joined, layers)
        assert told.without.one_stream <= told.joined.one_stream
        assert told.without.many_streams <= told.joined.many_streams
        there.append(newcomer)
        planned = forecast(footprint, there)
        assert told.joined == Outlook(tuple(planned.missing), planned.one_stream, planned.many_streams)
