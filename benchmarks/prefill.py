"""A long prompt through one node and through two, with one core each: the time to the first token.

    python benchmarks/prefill.py [--prompt 2048] [--chunks 512 64] [--rounds 1]

- "1 stage" is one node with the whole model on one core.
- "2 stages" are two nodes with half of it each, which work on successive chunks of the prompt at the same time.
- "Without pipelining" is both halves in one process with one thread on one core. Every chunk passes through one half
  and then through the other, without a wire, so this is the sum of what both stages compute. It is measured with chunks
  of several sizes, because the coordinator's may change, and the fastest one counts.
Then the prompt comes while two stages answer another stream. The time between that stream's tokens, from the prompt's
request to its first token, is compared with an answer that nothing disturbs.
Engines compute only while the swarm rests.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
from pathlib import Path

from bench.engines import Engines
from bench.prompts import Prompt, Prompts
from bench.record import Figure, Measure, at_least, below
from bench.report import Report, options_parser
from bench.rounds import percentile
from bench.streams import Stream, ask, ask_in_turn, check_answers, open_client
from bench.swarms import add_pinned_nodes, temporary_cache
from potluck.local import LocalSwarm, demo_model
from potluck.models.manifest import Manifest
from potluck.models.sources import open_model
from potluck.types import MAX_STEP_ROWS, Span, even_spans

STREAM_PROMPT = 16
HEAD_START_S = 0.5
"""How long the other stream runs before the prompt comes."""

FIRST, SPEED = Measure("first token", "s"), Measure("tokens/s", "tokens/s")
BETWEEN = {50: Measure("p50", "ms"), 95: Measure("p95", "ms")}
RATIO, OVER_QUIET = Measure("ratio", "ratio"), Measure("p95 relative to quiet", "ratio")

Rounds = dict[str, list[float]]
"""Of each value, what each round measured."""


class Swarms:
    """Asks swarms, and keeps what was measured and every answer."""

    def __init__(self, manifest: Manifest, options: argparse.Namespace) -> None:
        self.rounds: Rounds = {}
        self.answers: list[tuple[Prompt, int, str]] = []
        self._manifest = manifest
        self._options = options
        self._prompts = Prompts(manifest.vocabulary)

    def measure(self) -> None:
        for stages in (1, 2):
            with LocalSwarm(self._options.model, [], serve=["--local"]) as swarm:
                spans = even_spans(self._manifest.layers, stages)  # a prompt's rows do not pass through the head
                model = add_pinned_nodes(swarm, self._options.model, spans)["model"]
                ask_in_turn(swarm.url, model, self._prompts.take(1, 600), 4)  # everything has run once
                for prompt in self._prompts.take(self._options.rounds, self._options.prompt):
                    [stream] = ask_in_turn(swarm.url, model, [prompt], self._options.tokens)
                    self._answered(prompt, self._options.tokens, stream)
                    self._note(f"stages_{stages}_s", stream.first_s)
                if stages == 2:
                    for prompt in self._prompts.take(self._options.rounds, self._options.prompt):
                        self._disturb(swarm.url, model, prompt)

    def _note(self, name: str, value: float) -> None:
        self.rounds.setdefault(name, []).append(value)

    def _answered(self, prompt: Prompt, tokens: int, stream: Stream) -> None:
        self.answers.append((prompt, tokens, stream.text))

    def _disturb(self, url: str, model: str, long: Prompt) -> None:
        """Ask for one stream alone, and for one while a long prompt is computed."""
        length = self._options.stream
        first, second = self._prompts.take(2, STREAM_PROMPT)
        [quiet] = ask_in_turn(url, model, [first], length)
        disturbed, asked = disturb(url, model, second, length, long, self._options.tokens)
        self._answered(first, length, quiet)
        self._answered(second, length, disturbed)
        self._answered(long, self._options.tokens, asked)
        gaps = between(disturbed, asked.begin, asked.moments[0])
        for name, values in (("quiet", quiet.gaps), ("disturbed", gaps)):
            for share in BETWEEN:
                self._note(f"{name}_gap_p{share}_s", percentile(values, share))
        self._note("disturbed_gaps", len(gaps))
        self._note("disturbed_prompt_s", asked.first_s)


def disturb(url: str, model: str, short: Prompt, length: int, long: Prompt, tokens: int) -> tuple[Stream, Stream]:
    """A stream of `length` tokens, and a long prompt that comes while it runs."""

    async def run() -> tuple[Stream, Stream]:
        async with open_client(url) as client:
            stream = asyncio.create_task(ask(client, model, short, length))
            await asyncio.sleep(HEAD_START_S)
            return await ask(client, model, long, tokens), await stream

    prompt, stream = asyncio.run(run())
    return stream, prompt


def between(stream: Stream, begin_s: float, end_s: float) -> list[float]:
    """The seconds before each token that came in this time."""
    return [gap for gap, moment in zip(stream.gaps, stream.moments[1:], strict=True) if begin_s <= moment <= end_s]


def measure_engines(manifest: Manifest, answers: list[tuple[Prompt, int, str]], options: argparse.Namespace) -> Rounds:
    """Measure without pipelining, and compare every answer of the swarms with the unsplit engine's."""
    rounds: Rounds = {}
    with Engines(options.model, [Span(0, manifest.layers - 1)], 1) as unsplit:
        expected = [unsplit.alone([prompt], tokens)[0] for prompt, tokens, _ in answers]
    check_answers([text for _, _, text in answers], expected, "the swarm")
    with Engines(options.model, even_spans(manifest.layers, 2), 1) as halves:
        for (prompt, tokens, text), _ in zip(answers, range(options.rounds), strict=False):
            for chunk in options.chunks:
                answer = halves.answer([prompt], tokens, chunk)
                check_answers(answer.texts, [text], f"chunks of {chunk} without pipelining")
                rounds.setdefault(f"chunks_of_{chunk}_s", []).append(answer.first_s)
    return rounds


def prompt_figures(rounds: Rounds, options: argparse.Namespace) -> list[Figure]:
    cases = {
        "1 stage": "stages_1_s",
        "2 stages": "stages_2_s",
        **{f"2 stages without pipelining, chunks of {size}": f"chunks_of_{size}_s" for size in options.chunks},
        "2 stages, beside another stream": "disturbed_prompt_s",
    }
    return [
        figure
        for case, name in cases.items()
        for figure in (
            FIRST.of(case, rounds[name]),
            SPEED.of(case, options.prompt / statistics.median(rounds[name])),
        )
    ]


def ratio_figures(rounds: Rounds, options: argparse.Namespace) -> list[Figure]:
    medians = {name: statistics.median(values) for name, values in rounds.items()}
    unpipelined_s = min(medians[f"chunks_of_{size}_s"] for size in options.chunks)
    return [
        RATIO.of("the same without pipelining", unpipelined_s / medians["stages_2_s"], at_least(1.7)),
        RATIO.of("1 stage", medians["stages_1_s"] / medians["stages_2_s"]),
    ]


def stream_figures(rounds: Rounds) -> list[Figure]:
    medians = {name: statistics.median(values) for name, values in rounds.items()}
    if not medians["disturbed_gaps"]:
        sys.exit("No token of the other stream came while the prompt was computed: ask for more with --stream.")
    quiet, disturbed = "quiet", "while the prompt is computed"
    return [
        *(measure.of(quiet, 1e3 * medians[f"quiet_gap_p{share}_s"]) for share, measure in BETWEEN.items()),
        *(measure.of(disturbed, 1e3 * medians[f"disturbed_gap_p{share}_s"]) for share, measure in BETWEEN.items()),
        OVER_QUIET.of(disturbed, medians["disturbed_gap_p95_s"] / medians["quiet_gap_p95_s"], below(3)),
    ]


def main() -> None:
    parser = options_parser(__doc__)
    parser.add_argument("--model", type=Path, default=None)
    parser.add_argument("--prompt", type=int, default=2048, help="tokens of the long prompt")
    parser.add_argument("--tokens", type=int, default=8, help="tokens of the long prompt's answer")
    parser.add_argument("--stream", type=int, default=384, help="tokens of the other stream's answer")
    parser.add_argument(
        "--chunks",
        type=int,
        nargs="+",
        default=[512, MAX_STEP_ROWS],
        help="rows of a chunk without pipelining, at most 512",
    )
    parser.add_argument("--rounds", type=int, default=1)
    options = parser.parse_args()
    options.model = options.model or demo_model()
    manifest = open_model(options.model)
    report = Report("prefill", options)
    with temporary_cache():
        swarms = Swarms(manifest, options)
        swarms.measure()
        rounds = swarms.rounds | measure_engines(manifest, swarms.answers, options)
    report.add(
        {
            f"prompt of {options.prompt:,} tokens": prompt_figures(rounds, options),
            "2 stages relative to": ratio_figures(rounds, options),
            "time between another stream's tokens": stream_figures(rounds),
        }
    )
    report.finish(model=manifest.name, threads_a_node=1, rounds=rounds, answers_equal=True)


if __name__ == "__main__":
    main()
