import pytest

from potluck.planning.cost import RESERVE_BYTES, Footprint
from potluck.planning.forecast import Forecast, forecast, sentences
from potluck.planning.machine import Machine, Placed
from potluck.types import Cuts, Span

FOOTPRINT = Footprint((100,) * 4, entry=50, head=200)


def placed(name: str, span: str, bytes_per_s: float, round_trip_s: float = 0.0) -> Placed:
    return Placed(Machine(name, RESERVE_BYTES + 650, bytes_per_s, round_trip_s), Span.parse(span))


def test_a_line_of_machines() -> None:
    slow = placed("slow", "2-3", 400.0, 0.25)
    told = forecast(FOOTPRINT, [placed("quick", "0-1", 1000.0, 0.05), slow])
    assert told.one_stream == pytest.approx(1 / (0.05 + 0.2 + 0.25 + 1.0))
    assert (told.many_streams, told.bottleneck, told.missing) == (1.0, slow, [])


def test_replicas_add_up_and_one_stream_takes_the_quickest_route() -> None:
    told = forecast(FOOTPRINT, [placed("a", "0-3", 600.0), placed("b", "0-3", 1200.0), placed("c", "2-3", 4000.0)])
    assert told.one_stream == pytest.approx(1 / (200 / 1200 + 400 / 4000))
    assert told.many_streams == 3.0
    assert told.bottleneck is not None
    assert told.bottleneck.machine.name == "a"


def test_missing_layers_are_named() -> None:
    told = forecast(FOOTPRINT, [placed("a", "1", 600.0)])
    assert told == Forecast(0.0, 0.0, None, [Span(0, 0), Span(2, 3)])
    assert sentences(FOOTPRINT, told) == [
        "No machine can hold layers 0, 2-3: the swarm needs 513 MiB more memory, at least 257 of them in one machine.",
    ]


def test_the_smallest_part_of_what_is_missing_needs_one_machine() -> None:
    """Many small machines do not help if a model can be cut at few places."""
    footprint = Footprint((100 << 20,) * 8, entry=0, head=0, cut=Cuts((0, 4, 6, 8)))
    ends = [Placed(Machine(span, 1 << 40, 1.0), Span.parse(span)) for span in ("0-3", "6-7")]
    for there, words in (([], "0-7: the swarm needs 1,056 MiB"), (ends[:1], "4-7: the swarm needs 656 MiB")):
        [sentence] = sentences(footprint, forecast(footprint, there))
        assert sentence == f"No machine can hold layers {words} more memory, at least 456 of them in one machine."
    [sentence] = sentences(footprint, forecast(footprint, ends[1:]))
    assert sentence.endswith("at least 456 of them in one machine.")


def test_a_forecast_in_words() -> None:
    told = forecast(FOOTPRINT, [placed("1: 8G", "0-3", 600.0)])
    assert sentences(FOOTPRINT, told) == [
        "One stream runs at 1.0 tokens/s.",
        "Many streams together run at 1.0 tokens/s.",
        "The bottleneck is machine 1: 8G, with layers 0-3.",
    ]
