"""Placement: how good plans are, how long it takes to plan, to place a newcomer and to choose a move, and whether the
head takes as long as plans assume.

    python benchmarks/placement.py [--swarms 600] [--part plans head]

Quality: plans for small random swarms are compared with the best of all assignments of spans. Plans for large ones are
compared with what their machines could give if no memory were left over and no layer were faster than the slowest one,
which no plan reaches. Time: the median of five calls.

The head: the number of SmolLM2's layers that take as long as its head, on one core, for one row and for several, with
weights of several types. Plans assume that time follows the number of weights. It is also shown what would follow from
their bytes.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from math import inf
from pathlib import Path
from random import Random
from typing import Any

import llama_cpp
import numpy as np

from bench.engines import Engines
from bench.record import Figure, Measure, at_least, below
from bench.report import Report, options_parser
from bench.smaller import KINDS, requantized
from bench.tables import counted
from potluck.coordinator.model_choice import usual_footprint
from potluck.local import demo_model
from potluck.models.sources import open_model
from potluck.planning.cost import RESERVE_BYTES, Footprint
from potluck.planning.machine import Machine, Placed
from potluck.planning.options import Options
from potluck.planning.placement import best_span, layer_rates
from potluck.planning.plan import place
from potluck.planning.rebalancing import choose_move
from potluck.types import Span

MIB, GB = 1 << 20, 1e9
PARTS = ["plans", "head"]
SMALL = [(2, 7), (3, 7), (4, 5), (5, 4)]
LARGE = [(10, 32), (60, 32), (200, 64), (1000, 100)]
"""Machines and layers."""

RESULT, SHARE = Measure("result", "count"), Measure("result", "ratio")
OF_BOUND = Measure("of the bound", "ratio")
TYPES = {**KINDS, "F16": llama_cpp.LLAMA_FTYPE_MOSTLY_F16}
ROWS = (1, 8, 64)
BY_WEIGHTS, BY_BYTES = Measure("layers by weights", "ratio"), Measure("layers by bytes", "ratio")
TIMED = {rows: Measure(f"layers by time, {counted(rows, 'row')}", "ratio") for rows in ROWS}

PLAN, NEWCOMER, MOVE = Measure("plan", "ms"), Measure("newcomer", "ms"), Measure("move", "ms")


def swarm(random: Random, machines: int, layers: int) -> tuple[Footprint, list[Machine]]:
    """Uneven layers of some 400 MiB, and machines that hold one layer or many, read 5 to 100 GB/s, and often have slow
    links."""
    sizes = tuple(random.randint(300, 500) * MIB for _ in range(layers))
    entry, head = (random.choice([0, 200, 800]) * MIB for _ in range(2))
    footprint = Footprint(sizes, entry, head, cache=(20 * MIB,) * layers, row=8 * 8192)
    return footprint, [
        Machine(
            str(number),
            RESERVE_BYTES + random.choice([1000, 2000, 4000, 8000, random.randint(100, 16000)]) * MIB,
            random.uniform(5, 100) * GB,
            0.01,
            random.choice([inf, inf, random.uniform(1, 12) * 1e6]),
        )
        for number in range(machines)
    ]


def planned(footprint: Footprint, machines: Sequence[Machine]) -> list[Placed]:
    spans = place(footprint, machines)
    return [Placed(machine, span) for machine, span in zip(machines, spans, strict=True) if span is not None]


def optimum(footprint: Footprint, machines: Sequence[Machine]) -> tuple[int, float]:
    """The layers that the best of all assignments covers, and its bottleneck."""
    options = Options(footprint)
    rates = np.zeros((1, options.layers))
    for machine in machines:
        fitting = options.fitting(machine)
        gains = options.rates(machine, fitting)[:, None] * options.covers[fitting]
        rates = (rates[:, None] + gains).reshape(-1, options.layers) if len(fitting) else rates
    return int((rates > 0).sum(axis=1).max()), float(rates.min(axis=1).max())


def bound(footprint: Footprint, machines: Sequence[Machine]) -> float:
    """The tokens/s that no plan exceeds."""
    options = Options(footprint)
    most = [float(options.work[options.fitting(machine)].max(initial=0)) for machine in machines]
    whole = footprint.work(Span(0, options.layers - 1))
    low, high = 0.0, sum(machine.bytes_per_s for machine in machines) / whole
    for _ in range(50):
        target = (low + high) / 2
        pairs = zip(machines, most, strict=True)
        given = sum(min(one.bytes_per_s, min(target, one.link_rate(footprint)) * work) for one, work in pairs)
        low, high = (target, high) if given >= target * whole else (low, target)
    return low


def measure_small(count: int) -> dict[str, Any]:
    ratios, worse = [], 0
    for seed in range(count):
        random = Random(seed)
        machines, most = random.choice(SMALL)
        footprint, fleet = swarm(random, machines, random.randint(3, most))
        covered, bottleneck = optimum(footprint, fleet)
        rates = layer_rates(footprint, planned(footprint, fleet))
        worse += sum(rate > 0 for rate in rates) < covered
        if bottleneck:
            ratios.append(min(rates) / bottleneck)
    return {
        "swarms": count,
        "complete": len(ratios),
        "fewer_layers": worse,
        "worst": min(ratios),
        "mean": statistics.mean(ratios),
    }


def measure_large(machines: int, layers: int) -> dict[str, Any]:
    footprint, fleet = swarm(Random(0), machines, layers)
    placed = planned(footprint, fleet)
    lost = placed[: len(placed) * 9 // 10]  # the last tenth has gone
    names = {one.machine.name for one in lost}
    return {
        "machines": machines,
        "layers": layers,
        "of_bound": min(layer_rates(footprint, placed)) / bound(footprint, fleet),
        "place_s": seconds(lambda: place(footprint, fleet)),
        "best_span_s": seconds(lambda: best_span(footprint, placed, fleet[0])),
        "choose_move_s": seconds(lambda: choose_move(footprint, lost, names)),
    }


def seconds(call: Callable[[], object]) -> float:
    times = []
    for _ in range(5):
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def measure_head(model: Path) -> dict[Measure, float]:
    """How many layers the head is as long as, by what can be known of it beforehand, and by its time."""
    sizes = usual_footprint(open_model(model))
    layers = len(sizes.layers)
    with Engines(model, sizes.share(2)[-1:], threads=1, sessions=max(ROWS)) as engine:
        timed = {measure: engine.head_layers(rows) for rows, measure in TIMED.items()}
    by_weights, by_bytes = sizes.costs[-1] * layers / sum(sizes.costs[:-1]), sizes.head * layers / sum(sizes.layers)
    return {BY_WEIGHTS: by_weights, BY_BYTES: by_bytes, **timed}


def head_figures() -> list[Figure]:
    """Of SmolLM2 as it is, and with other types of weights."""
    with tempfile.TemporaryDirectory() as folder:
        models = {demo_model().stem: demo_model()}
        models |= {name: requantized(demo_model(), kind, Path(folder)) for name, kind in TYPES.items()}
        heads = {name: measure_head(model) for name, model in models.items()}
    return [measure.of(name, value) for name, head in heads.items() for measure, value in head.items()]


def quality_figures(small: dict[str, Any]) -> list[Figure]:
    return [
        RESULT.of("swarms that can be complete", small["complete"]),
        RESULT.of("plans that cover fewer layers than the best assignment", small["fewer_layers"], below(1)),
        SHARE.of("speed relative to the best assignment, at worst", small["worst"], at_least(0.95)),
        SHARE.of("speed relative to the best assignment, on average", small["mean"]),
    ]


def time_figures(large: list[dict[str, Any]]) -> list[Figure]:
    """The aim is for the largest swarm."""
    return [
        figure
        for one in large
        for case in (f"{one['machines']:,} machines and {one['layers']} layers",)
        for figure in (
            OF_BOUND.of(case, one["of_bound"]),
            PLAN.of(case, 1e3 * one["place_s"], below(200) if one is large[-1] else None),
            NEWCOMER.of(case, 1e3 * one["best_span_s"]),
            MOVE.of(case, 1e3 * one["choose_move_s"]),
        )
    ]


def main() -> None:
    parser = options_parser(__doc__)
    parser.add_argument("--swarms", type=int, default=600, help="small random swarms")
    parser.add_argument("--part", nargs="+", choices=PARTS, default=PARTS)
    options = parser.parse_args()
    report = Report("placement", options)
    told: dict[str, Any] = {}
    if "plans" in options.part:
        told = {"small": measure_small(options.swarms), "large": [measure_large(*size) for size in LARGE]}
        quality = {f"{options.swarms} random swarms of up to five machines": quality_figures(told["small"])}
        report.add(quality | {"swarm of": time_figures(told["large"])})
    if "head" in options.part:
        report.add({"the head of SmolLM2 with": head_figures()}, "head")
    report.finish(**told)


if __name__ == "__main__":
    main()
