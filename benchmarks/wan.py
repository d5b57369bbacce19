"""A swarm with distant nodes: the speed of one stream and of many against what delays and computing allow.

    python benchmarks/wan.py [--delay 25] [--jitter 2] [--mbit 20] [--nodes 2] [--streams 16] [--tokens 48]
    python benchmarks/wan.py --guess [right:0.8 copying novel many ...] [--guesser FILE] [--late 1] [--tokens 96]

Every node's link passes through a proxy that adds a delay and a jitter and limits the bandwidth, each way. The same
swarm is measured with the proxies idle ("near") and at work ("far"). The prediction for a far token is the time of a
near one, plus two delays for every stage, plus twice the time that a row needs to pass between two stages.

With --guess each case is asked with guessing off and on, in turns. "right:0.8" has a guesser that knows the answers and
of whose guesses that share is right; each takes 8 ms. Without a guesser, "copying" are answers that repeat a text of
the prompt, "novel" are such that repeat nothing, and "many" are all the streams at once, of which 80% of the guesses
would be right. "own" are four kinds of chats with the small model of --guesser: a file, or a copy of the model itself
(see bench/smaller.py). With --late so many per cent of what passes a link come 200 ms later, with all that follows.
"""

from __future__ import annotations

import argparse
import re
import statistics
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from bench.engines import Engines
from bench.guessed import P95, RATIO, ROWS, Swarm, figures_of, repeats, scripted_swarm
from bench.links import SlowLink
from bench.prompts import Prompt, Prompts, chats
from bench.record import Aim, Figure, Measure, at_least, below
from bench.report import Report, options_parser
from bench.rounds import Values, medians, percentile
from bench.smaller import small_model
from bench.streams import Stream, all_gaps, ask_together, check_answers, tokens_per_s
from bench.swarms import add_pinned_nodes, balanced_spans, temporary_cache
from bench.tables import counted
from potluck.coordinator.text.opening import open_tokenizer
from potluck.local import LocalSwarm, demo_model
from potluck.models.manifest import Manifest
from potluck.models.sources import open_model
from potluck.types import RowFormat, Span
from potluck.wire.rows import payload_size

PROMPT = 16
PLACES = ("near", "far")
LATE_S = 0.2
GUESSES = ("right:0", "right:0.5", "right:0.8", "copying", "novel", "many")
RIGHT = re.compile(r"right:(0(\.\d+)?|1)")
MANY = "right:0.8"
"""How the guesser of many streams would guess."""

AIMED = 25.0
"""The delay for whose far nodes there are aims."""
AIMS = {"right:0": {2: 0.97, 4: 0.97}, "right:0.5": {2: 1.5, 4: 1.5}, "right:0.8": {2: 3.0, 4: 3.5}} | {
    "copying": {2: 3.0, 4: 3.0},
    "novel": {2: 0.98, 4: 0.98},
    "many": {2: 0.97, 4: 0.97},
    "itself": {2: 5.0},
}
"""How many times as fast far streams should be with guessing, by the number of nodes."""
NEAR = {"novel": 0.98, "many": 0.97}
NEAR_AIM = 0.95

SPEED = Measure("tokens/s", "tokens/s")
TIMES = {
    "first_p50_s": Measure("first token p50", "ms"),
    "gap_p50_s": Measure("between tokens p50", "ms"),
    "gap_p95_s": Measure("between tokens p95", "ms"),
    "gap_mean_s": Measure("between tokens, mean", "ms"),
}
MEASURED, PREDICTED, OVER = Measure("measured", "ms"), Measure("predicted", "ms"), Measure("ratio", "ratio")

Rounds = dict[str, list[Values]]
"""Of each case, what each round measured."""


def values_of(streams: list[Stream]) -> Values:
    gaps = all_gaps(streams)
    return {
        "tokens_per_s": tokens_per_s(streams),
        "first_p50_s": percentile([stream.first_s for stream in streams], 50),
        "gap_p50_s": percentile(gaps, 50),
        "gap_p95_s": percentile(gaps, 95),
        "gap_mean_s": statistics.fmean(gaps),
    }


def case(place: str, streams: int) -> str:
    return f"{place}, {counted(streams, 'stream')}"


def put(links: list[SlowLink], place: str, options: argparse.Namespace) -> None:
    """Make the nodes near or far from now on."""
    far = place == "far"
    for link in links:
        link.delay_s = options.delay / 1e3 if far else 0.0
        link.jitter_s = options.jitter / 1e3 if far else 0.0
        link.bits_per_s = options.mbit * 1e6 if far else float("inf")
        link.late, link.late_s = (options.late / 100, LATE_S) if far else (0.0, 0.0)


def measure(manifest: Manifest, options: argparse.Namespace) -> Rounds:
    prompts, rounds = Prompts(manifest.vocabulary), Rounds()
    with ExitStack() as stack:
        stack.enter_context(temporary_cache())
        swarm = stack.enter_context(LocalSwarm(options.model, [], serve=["--local", "--rows", "f32"]))
        links = [SlowLink(swarm.url) for _ in range(options.nodes)]
        spans = balanced_spans(options.model, options.nodes)
        model = add_pinned_nodes(swarm, options.model, spans, [link.url for link in links])["model"]
        unsplit = stack.enter_context(Engines(options.model, [Span(0, manifest.layers - 1)], 1))
        ask_together(swarm.url, model, prompts.take(4, PROMPT), 8)  # everything has run once
        for _ in range(options.rounds):
            for place in PLACES:
                put(links, place, options)
                for count in (1, options.streams):
                    asked = prompts.take(count, PROMPT)
                    alone = unsplit.alone(asked, options.tokens)
                    streams = ask_together(swarm.url, model, asked, options.tokens)
                    check_answers([stream.text for stream in streams], alone, f"{count} streams {place}")
                    rounds.setdefault(case(place, count), []).append(values_of(streams))
    return rounds


def predicted_s(near_s: float, manifest: Manifest, options: argparse.Namespace) -> float:
    """The seconds per token of one far stream. near_s: those of a near one."""
    delays: float = 2 * options.nodes * options.delay / 1e3
    row_bits = 8 * payload_size(1, manifest.hidden_size, RowFormat.F32)
    passing: float = 2 * (options.nodes - 1) * row_bits / (options.mbit * 1e6)
    return near_s + delays + passing


def stream_figures(rounds: Rounds) -> list[Figure]:
    return [
        figure
        for name, values in ((name, medians(ones)) for name, ones in rounds.items())
        for figure in (
            SPEED.of(name, values["tokens_per_s"]),
            *(measure.of(name, 1e3 * values[key]) for key, measure in TIMES.items()),
        )
    ]


def ratio_figure(rounds: Rounds, streams: int) -> Figure:
    pairs = zip(rounds[case("far", streams)], rounds[case("far", 1)], strict=True)
    ratios = [many["tokens_per_s"] / one["tokens_per_s"] for many, one in pairs]
    return OVER.of(f"{streams} streams relative to one", ratios, at_least(10))


# Guessing


Source = Callable[[int], list[Prompt]]
"""The prompts of a round, which are asked together."""
Case = tuple[str, str, str]
"""A place, a kind of prompts and a way to guess."""


def sources(engine: Engines, manifest: Manifest, options: argparse.Namespace) -> dict[str, tuple[Source, list[str]]]:
    """For each kind of prompts where they come from, and the ways to guess that are measured on them."""
    prompts, talks = Prompts(manifest.vocabulary), chats(open_tokenizer(options.model))
    asked = [*talks["chat"], *talks["code"]]
    answers = engine.answer(asked, options.tokens).ids if "novel" in options.guess else []
    novel = [prompt for prompt, ids in zip(asked, answers, strict=False) if not repeats(prompt, ids)]
    rights = [guess for guess in options.guess if guess.startswith("right:")]

    def turns(among: list[Prompt]) -> Source:
        return lambda number: [among[number % len(among)]]

    found = {
        "right": (lambda _: prompts.take(1, PROMPT), rights),
        "copying": (turns(talks["copying"]), ["copies"]),
        "novel": (turns(novel), ["copies"]),
        "many": (lambda _: prompts.take(options.streams, PROMPT), [MANY]),
        **{f"own, {kind}": (turns(among), ["own"]) for kind, among in talks.items()},
    }
    chosen = {"right" if guess in rights else guess for guess in options.guess}
    return {name: found[name] for name in found if name.partition(",")[0] in chosen}


def measure_guesses(manifest: Manifest, options: argparse.Namespace) -> dict[Case, list[dict[str, Values]]]:
    """What each round measured of each case, by the way to guess, of which one is "off"."""
    rounds: dict[Case, list[dict[str, Values]]] = {}
    with ExitStack() as stack:
        folder = stack.enter_context(temporary_cache())
        serve = ["--local", "--rows", "f32"]
        if options.guesser:
            serve += ["--guesser", str(small_model(options.model, options.guesser, folder))]
        local, script = stack.enter_context(scripted_swarm(options.model, serve))
        links = [SlowLink(local.url) for _ in range(options.nodes)]
        spans = balanced_spans(options.model, options.nodes)
        model = add_pinned_nodes(local, options.model, spans, [link.url for link in links])["model"]
        whole = [Span(0, manifest.layers - 1)]
        unsplit = stack.enter_context(Engines(options.model, whole, 1, max(8, options.streams)))
        swarm = Swarm(local, script, options.nodes, model, unsplit)
        ask_together(local.url, model, Prompts(manifest.vocabulary, seed=1).take(4, PROMPT), 8)
        kinds = sources(unsplit, manifest, options)
        for number in range(options.rounds):
            for place in PLACES:
                put(links, place, options)
                for kind, (take, guesses) in kinds.items():
                    values = swarm.compare(take(number), options.tokens, guesses, place, number)
                    for guess in guesses:
                        rounds.setdefault((place, kind, guess), []).append(values)
    return rounds


def aims_of(place: str, name: str, options: argparse.Namespace) -> dict[str, Aim]:
    """The aims of one case, by the name of the measure.

    name: that of the kind of prompts, of the way to guess, or of the guesser.
    """
    bounds = AIMS.get(name, {})
    far = bounds.get(options.nodes) if options.delay == AIMED and not options.late else None
    least = NEAR.get(name, NEAR_AIM) if place == "near" else far
    aims = {} if least is None else {RATIO.name: at_least(least)}
    if name.startswith("right:") and float(name.partition(":")[2]) >= 0.7:
        aims[ROWS.name] = below(2.5)
    if name == "many":
        aims[P95.name] = below(1.05)
    return aims


def guess_part(report: Report, manifest: Manifest, options: argparse.Namespace) -> None:
    rounds = measure_guesses(manifest, options)
    figures: list[Figure] = []
    for (place, kind, guess), values in rounds.items():
        name = {"right": guess, "many": "many"}.get(kind, options.guesser if guess == "own" else kind)
        shown = {"right": guess, "many": counted(options.streams, "stream")}.get(kind, kind)
        figures += figures_of(f"{place}, {shown}", guess, values, aims_of(place, name, options))
    links = f"{options.delay:g} ms" + (f", {options.late:g}% late" if options.late else "")
    distance = "" if options.delay == AIMED else f"{options.delay:g} ms"
    told = ["guess", Path(options.guesser or "").stem, counted(options.nodes, "node"), distance]
    part = re.sub("[^a-z0-9]+", "-", " ".join(filter(None, told)).lower())
    report.add({f"{counted(options.nodes, 'node')}, {links}": figures}, part)
    report.finish(
        model=manifest.name,
        prompt=PROMPT,
        rounds={", ".join(case): values for case, values in rounds.items()},
        answers_equal=True,
    )


def main() -> None:
    parser = options_parser(__doc__)
    parser.add_argument("--model", type=Path, default=None)
    parser.add_argument("--delay", type=float, default=25.0, help="delay in ms each way")
    parser.add_argument("--jitter", type=float, default=2.0, help="jitter in ms, more or less")
    parser.add_argument("--mbit", type=float, default=20.0, help="bandwidth in Mbit/s each way")
    parser.add_argument("--nodes", type=int, default=2)
    parser.add_argument("--streams", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--guess", nargs="*", help=f"compare guessing off and on: {', '.join(GUESSES)}, own")
    parser.add_argument("--guesser", help="the small model for own: itself, Q4_0, '24 layers' or a file")
    parser.add_argument("--late", type=float, default=0.0, help="percentage of what passes that comes 200 ms later")
    options = parser.parse_args()
    options.model = options.model or demo_model()
    manifest = open_model(options.model)
    report = Report("wan", options)
    if options.guess is not None or options.guesser:
        options.guess = options.guess or (["own"] if options.guesser else list(GUESSES))
        known = {*GUESSES, *(["own"] if options.guesser else [])}
        if strange := [guess for guess in options.guess if guess not in known and not RIGHT.fullmatch(guess)]:
            parser.error(f"Nothing guesses {strange[0]!r}.")
        guess_part(report, manifest, options)
        return
    rounds = measure(manifest, options)
    near, far = (medians(rounds[case(place, 1)])["gap_mean_s"] for place in PLACES)
    predicted = predicted_s(near, manifest, options)
    bound = min(options.streams / predicted, medians(rounds[case("near", options.streams)])["tokens_per_s"])
    report.add(
        {
            counted(options.nodes, "node"): stream_figures(rounds),
            "a token of one far stream": [
                MEASURED.of("time per token", 1e3 * far),
                PREDICTED.of("time per token", 1e3 * predicted),
                OVER.of("time per token", far / predicted),
            ],
            "far streams": [ratio_figure(rounds, options.streams)],
        }
    )
    report.finish(
        model=manifest.name,
        prompt=PROMPT,
        rounds=rounds,
        token_predicted_s=predicted,
        token_measured_s=far,
        many_bound_tokens_per_s=bound,
        answers_equal=True,
    )


if __name__ == "__main__":
    main()
