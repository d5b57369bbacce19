"""What lies on a graphics card, and which spans fit into a card and the machine's other memory."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest
from msgspec import structs

from kit.random_swarms import small_swarm
from potluck.planning.cost import RESERVE_BYTES, Footprint
from potluck.planning.forecast import forecast, forecast_json
from potluck.planning.inventory import parse_machines
from potluck.planning.machine import Machine, Placed
from potluck.planning.offload import CARD_RESERVE_BYTES, Parts
from potluck.planning.options import Options
from potluck.planning.placement import best_span
from potluck.planning.plan import place
from potluck.types import Span

GB = 1 << 30
MIB = 1 << 20


def model(layers: int, layer: float, experts: float, cache: float, ends: float) -> Footprint:
    """The footprint of a model with equal layers, from MiB. experts: the part of a layer. ends: the head's."""
    sizes = [int(size * MIB) for size in (layer, experts, cache, ends)]
    return Footprint(
        (sizes[0],) * layers,
        sizes[3],
        sizes[3],
        cache=(sizes[2],) * layers,
        experts=(sizes[1],) * layers,
        offloads=True,
    )


MODELS = {
    # With 4 bits a weight and a cache of 8 bits for 4,096 positions.
    "Llama-3-8B": model(32, 117, 0, 8.5, 280),
    "GPT-NeoX-20B": model(44, 244, 0, 51, 165),
    "Llama-3-70B": model(80, 460, 0, 8.5, 560),
    "Qwen3-30B-A3B": model(48, 345, 324, 4.25, 167),
    "gpt-oss-20b": model(24, 470, 440, 4.25, 311),
}
PAIRS = [(4, 16), (6, 16), (8, 32), (12, 32), (16, 64), (24, 64)]


def machine(card: float, memory: float, speed: float = 1e10) -> Machine:
    return Machine(f"{card}+{memory}", int(memory * GB), speed, card=int(card * GB))


def division_by_hand(footprint: Footprint, span: Span, card: int) -> tuple[int, int]:
    """The bytes on the card and in other memory, one layer after the other."""
    room, taken = max(0, card - CARD_RESERVE_BYTES), 0
    memory = RESERVE_BYTES + (footprint.entry if span.first == 0 else 0)
    if span.last == len(footprint.layers) - 1:
        taken, memory = (footprint.head, memory) if footprint.head <= room else (0, memory + footprint.head)
    dense = {n: footprint.layers[n] - footprint.experts[n] + footprint.cache[n] for n in range(len(footprint.layers))}
    layers = [*range(span.last, span.first - 1, -1)]
    held = next((at for at, n in enumerate(layers) if taken + sum(dense[m] for m in layers[: at + 1]) > room), None)
    on_card = layers[:held]
    taken += sum(dense[n] for n in on_card)
    with_experts = 0
    while with_experts < len(on_card) and taken + footprint.experts[on_card[with_experts]] <= room:
        taken += footprint.experts[on_card[with_experts]]
        with_experts += 1
    memory += sum(footprint.experts[n] for n in layers[with_experts:])
    return taken, memory + sum(dense[n] for n in layers[len(on_card) :])


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("name", MODELS)
def test_every_span_is_divided_so_that_it_fits_both_memories(name: str, pair: tuple[int, int]) -> None:
    footprint, one = MODELS[name], machine(*pair)
    options = Options(footprint)
    for number in range(0, len(options.first), 7):
        span = options.span(number)
        taken, memory = division_by_hand(footprint, span, one.card)
        assert (footprint.on_card(one.card, span), options.beside(one.card)[number]) == (taken, memory)
        assert taken <= max(0, one.card - CARD_RESERVE_BYTES)
        assert taken + memory == footprint.of(span)
        assert one.holds(footprint, span) == (memory <= one.memory) == (number in options.fitting(one))


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("name", MODELS)
def test_a_newcomer_gets_all_that_both_memories_hold_and_no_more(name: str, pair: tuple[int, int]) -> None:
    footprint, one = MODELS[name], machine(*pair)
    span = best_span(footprint, [], one)
    [planned] = place(footprint, [one])
    assert span is not None
    assert planned is not None
    assert len(span) == len(planned) == max(len(each) for each in footprint.cuts.spans() if one.holds(footprint, each))
    assert one.holds(footprint, span)
    assert one.holds(footprint, planned)


def test_a_card_counts_beside_the_memory() -> None:
    footprint = MODELS["Llama-3-70B"]
    [alone, with_card] = [best_span(footprint, [], machine(card, 32)) for card in (0, 8)]
    assert alone is not None
    assert with_card is not None
    assert (len(alone), len(with_card)) == (69, 80)


@pytest.mark.parametrize("pair", [(4, 16), (8, 32)])
def test_attention_comes_first_and_experts_take_the_room_that_is_left(pair: tuple[int, int]) -> None:
    footprint = MODELS["Qwen3-30B-A3B"]
    parts = Parts(
        [whole - part for whole, part in zip(footprint.layers, footprint.experts, strict=True)],
        footprint.experts,
        footprint.cache,
    )
    division = parts.divide(np.array([0]), np.array([48]), np.array([footprint.head]), pair[0] * GB)
    room = pair[0] * GB - CARD_RESERVE_BYTES - footprint.head - sum(footprint.layers) + sum(footprint.experts)
    assert division.layers == [0]
    assert division.experts == 48 - (room - sum(footprint.cache)) // footprint.experts[0]
    assert division.head == footprint.head


def test_a_head_that_is_too_large_leaves_the_card_to_the_layers() -> None:
    footprint = model(4, 10, 0, 0, 1000)
    taken = footprint.on_card(CARD_RESERVE_BYTES + 25 * MIB, Span(0, 3))
    assert taken == 20 * MIB


def test_an_engine_that_cannot_divide_a_span_has_the_memory_only() -> None:
    footprint = structs.replace(MODELS["Llama-3-8B"], offloads=False)
    assert footprint.beside(24 * GB, Span(0, 31)) == footprint.of(Span(0, 31))
    assert footprint.on_card(24 * GB, Span(0, 31)) == 0


@pytest.mark.parametrize("card", [0, 1, CARD_RESERVE_BYTES, (1 << 64) - 1, -1])
def test_a_card_of_any_size_that_a_node_may_name_can_be_planned_with(card: int) -> None:
    footprint = MODELS["gpt-oss-20b"]
    whole = Span(0, 23)
    assert footprint.on_card(card, whole) == (footprint.of(whole) - RESERVE_BYTES - footprint.entry) * (card > GB)


@pytest.mark.parametrize("seed", range(40))
def test_plans_with_cards_never_give_a_machine_more_than_it_holds(seed: int) -> None:
    random = Random(seed)
    footprint, machines = small_swarm(seed, cut=seed % 2 > 0)
    experts = tuple(random.randint(0, size) for size in footprint.layers)
    footprint = structs.replace(footprint, experts=experts, offloads=True)
    cards = [0, CARD_RESERVE_BYTES + random.randint(0, 800)]
    machines = [structs.replace(one, card=random.choice(cards)) for one in machines]
    spans = place(footprint, machines)
    for one, span in zip(machines, spans, strict=True):
        assert (span is None) == (not any(one.holds(footprint, each) for each in footprint.cuts.spans()))
        assert span is None or (one.holds(footprint, span) and footprint.cuts.allows(span))


def test_a_forecast_for_programs_knows_both_memories() -> None:
    footprint, one = MODELS["Llama-3-8B"], machine(4, 16)
    told = forecast_json(footprint, [placed := Placed(one, Span(0, 31))], forecast(footprint, [placed]))
    taken, memory = division_by_hand(footprint, placed.span, one.card)
    row = {"name": "4+16", "span": "0-31", "memory": memory, "gpu_memory": taken}
    assert told["machines"] == [{**row, "tokens_per_s": one.rate(footprint, placed.span)}]


def test_a_machine_is_written_with_its_card_first() -> None:
    [one, *others] = parse_machines(["8G+32G@40x3"])
    assert (one.card, one.memory, one.bytes_per_s, one.name) == (8 * GB, 32 * GB, 4e10, "1: 8G+32G@40")
    assert len(others) == 2
