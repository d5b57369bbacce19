"""Moves: none that is useless, none that uncovers a layer, and never without an end."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from kit.random_swarms import random_cut_footprint, random_footprint, random_machine
from potluck.planning.cost import RESERVE_BYTES, Footprint
from potluck.planning.machine import Machine, Placed
from potluck.planning.placement import best_span, layer_rates
from potluck.planning.rebalancing import MARGIN, Move, choose_move
from potluck.types import Cuts, Span

FLAT = Footprint((100,) * 10, entry=0, head=0)
FAST = 1000.0
MODELS = st.sampled_from([random_footprint, random_cut_footprint])


def placed(*spans: str, bytes_per_s: float = FAST, layers: int = 5) -> list[Placed]:
    machines = [Machine(str(number), RESERVE_BYTES + 100 * layers, bytes_per_s) for number in range(len(spans))]
    return [Placed(machine, Span.parse(span)) for machine, span in zip(machines, spans, strict=True)]


def names(swarm: list[Placed]) -> set[str]:
    return {one.machine.name for one in swarm}


def test_a_replica_moves_to_the_bottleneck() -> None:
    swarm = placed("0-4", "0-4", "0-4", "5-9")
    assert choose_move(FLAT, swarm, names(swarm)) == Move("0", Span(5, 9))
    assert choose_move(FLAT, swarm, {"2", "3"}) == Move("2", Span(5, 9))
    assert choose_move(FLAT, swarm, {"3"}) is None


def test_a_replica_moves_to_what_nobody_serves() -> None:
    assert choose_move(FLAT, placed("0-4", "0-4"), {"1"}) == Move("1", Span(5, 9))
    assert choose_move(FLAT, placed("0-4", "2-6"), {"0", "1"}) is None  # each is the only one at some layer


def test_a_replica_moves_only_to_a_span_that_can_be_cut_out() -> None:
    swarm = placed("0-4", "0-4", "5-7")
    cuts = Cuts((0, 5, 8, 10), forbidden=frozenset({2}))
    assert choose_move(FLAT, swarm, {"1"}) == Move("1", Span(8, 9))
    assert choose_move(structs.replace(FLAT, cut=cuts), swarm, {"1"}) == Move("1", Span(5, 9))


def test_what_is_even_stays() -> None:
    swarm = placed("0-4", "0-4", "5-9", "5-9")
    assert choose_move(FLAT, swarm, names(swarm)) is None


def test_a_small_gain_is_not_worth_a_move() -> None:
    base = [*placed("0-4", bytes_per_s=2 * FAST), *placed("1-4", "5-9")[1:]]
    for speed, moves in ((0.9, False), (1.1, True)):
        extra = Placed(Machine("extra", RESERVE_BYTES + 500, speed * (MARGIN - 1) * FAST), Span(0, 4))
        move = choose_move(FLAT, [*base, extra], {"extra"})
        assert move == (Move("extra", Span(5, 9)) if moves else None)


def covered(footprint: Footprint, swarm: list[Placed]) -> set[int]:
    return {layer for layer, rate in enumerate(layer_rates(footprint, swarm)) if rate > 0}


def settle(footprint: Footprint, swarm: list[Placed], movable: set[str]) -> list[Placed]:
    """Make every move that is chosen, and check each."""
    moves = 0
    while move := choose_move(footprint, swarm, movable):
        [mover] = [one for one in swarm if one.machine.name == move.name]
        others = [one for one in swarm if one is not mover]
        after = [*others, Placed(mover.machine, move.span)]
        before, rates = layer_rates(footprint, swarm), layer_rates(footprint, after)
        assert move.name in movable
        assert footprint.of(move.span) <= mover.machine.memory
        assert footprint.cuts.allows(move.span)
        assert covered(footprint, others) == covered(footprint, swarm)  # also while it moves
        more = len(covered(footprint, after)) > len(covered(footprint, swarm))
        assert more or min(rates) >= 0.999 * MARGIN * min(before) > 0
        swarm, moves = after, moves + 1
        assert moves < 40
    return swarm


@given(MODELS, st.randoms(use_true_random=False), st.integers(1, 10), st.lists(st.booleans(), max_size=14))
def test_whoever_comes_and_goes_no_move_worsens_coverage_and_moves_end(
    model: Callable[[Random, int], Footprint], random: Random, layers: int, comings: list[bool]
) -> None:
    footprint = model(random, layers)
    swarm: list[Placed] = []
    for number, comes in enumerate(comings):
        newcomer = random_machine(random, str(number))
        if comes and (span := best_span(footprint, swarm, newcomer)):
            before = len(covered(footprint, swarm))
            swarm = [*swarm, Placed(newcomer, span)]
            assert footprint.cuts.allows(span)
            assert len(covered(footprint, swarm)) >= before
        elif swarm:
            swarm.pop(random.randrange(len(swarm)))
        movable = {one.machine.name for one in swarm if random.random() < 0.8}
        swarm = settle(footprint, swarm, movable)
        assert choose_move(footprint, swarm, movable) is None


@given(MODELS, st.randoms(use_true_random=False), st.integers(1, 8), st.integers(1, 5))
def test_a_newcomer_covers_as_many_layers_as_any_span_would(
    model: Callable[[Random, int], Footprint], random: Random, layers: int, count: int
) -> None:
    footprint = model(random, layers)
    swarm: list[Placed] = []
    for number in range(count):
        newcomer = random_machine(random, str(number))
        spans = [span for span in footprint.cuts.spans() if footprint.of(span) <= newcomer.memory]
        swarms = [[*swarm, Placed(newcomer, span)] for span in spans]
        if span := best_span(footprint, swarm, newcomer):
            swarm = [*swarm, Placed(newcomer, span)]
            assert swarm in swarms
            assert len(covered(footprint, swarm)) == max(len(covered(footprint, other)) for other in swarms)
            best = max(min(layer_rates(footprint, other)) for other in swarms)
            assert min(layer_rates(footprint, swarm)) >= 0.999 * best
        else:
            assert swarms == []
