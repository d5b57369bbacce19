"""A long prompt through one and through two nodes of one core each: seconds to the first token.

    python benchmarks/prefill.py [--prompt 2048] [--chunks 512 64] [--rounds 1]

- "1 stage": one node with the whole model on one core;
- "2 stages": two nodes with half of it each, whose stages work on successive chunks of the prompt at once;
- "without pipelining": both halves in one process with one thread on one core, every chunk through one half and then
  through the other, without a wire: the sum of what both stages compute. Measured in chunks of several sizes, as the
  coordinator's may change; the fastest is what counts.
Then the same while another stream of two stages is being answered: the time between its tokens from the prompt's
request to the prompt's first token, against an answer that nothing disturbs.
Engines compute only while the swarm rests.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
from pathlib import Path

from common import (
    Engines,
    Prompt,
    Prompts,
    Stream,
    add_pinned_nodes,
    ask,
    ask_in_turn,
    begin,
    check_answers,
    open_client,
    percentile,
    print_aim,
    print_json,
    print_table,
    temporary_cache,
)
from potluck.local import LocalSwarm, demo_model
from potluck.models.manifest import Manifest
from potluck.models.sources import open_model
from potluck.types import MAX_STEP_ROWS, Span, even_spans

STREAM_PROMPT = 16
HEAD_START_S = 0.5
"""How long the other stream runs before the prompt comes."""

Texts = list[str]


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
    """Seconds before each token that came in this time."""
    return [gap for gap, moment in zip(stream.gaps, stream.moments[1:], strict=True) if begin_s <= moment <= end_s]


def measure_swarms(
    path: Path, manifest: Manifest, prompts: Prompts, options: argparse.Namespace
) -> tuple[dict[str, list[float]], list[tuple[Prompt, int, str]]]:
    """Figures by name, and every answer with what it answers."""
    figures: dict[str, list[float]] = {}
    answers: list[tuple[Prompt, int, str]] = []

    def note(prompt: Prompt, tokens: int, stream: Stream) -> Stream:
        answers.append((prompt, tokens, stream.text))
        return stream

    for stages in (1, 2):
        with LocalSwarm(path, [], serve=["--local"]) as swarm:
            model = add_pinned_nodes(swarm, path, even_spans(manifest.layers, stages))["model"]
            ask_in_turn(swarm.url, model, prompts.take(1, 600), 4)  # everything has run once
            for prompt in prompts.take(options.rounds, options.prompt):
                [stream] = ask_in_turn(swarm.url, model, [prompt], options.tokens)
                note(prompt, options.tokens, stream)
                figures.setdefault(f"stages_{stages}_s", []).append(stream.first_s)
            if stages == 1:
                continue
            for long in prompts.take(options.rounds, options.prompt):
                first, second = prompts.take(2, STREAM_PROMPT)
                [quiet] = ask_in_turn(swarm.url, model, [first], options.stream)
                disturbed, asked = disturb(swarm.url, model, second, options.stream, long, options.tokens)
                note(first, options.stream, quiet)
                note(second, options.stream, disturbed)
                note(long, options.tokens, asked)
                gaps = between(disturbed, asked.begin, asked.moments[0])
                for name, values in (("quiet", quiet.gaps), ("disturbed", gaps)):
                    for share in (50, 95):
                        figures.setdefault(f"{name}_gap_p{share}_s", []).append(percentile(values, share))
                figures.setdefault("disturbed_gaps", []).append(len(gaps))
                figures.setdefault("disturbed_prompt_s", []).append(asked.first_s)
    return figures, answers


def measure_engines(
    path: Path, manifest: Manifest, answers: list[tuple[Prompt, int, str]], options: argparse.Namespace
) -> dict[str, list[float]]:
    """Without pipelining; and every answer of the swarms is checked against the unsplit engine's."""
    figures: dict[str, list[float]] = {}
    with Engines(path, [Span(0, manifest.layers - 1)], 1) as unsplit:
        expected = [unsplit.alone([prompt], tokens)[0] for prompt, tokens, _ in answers]
    check_answers([text for _, _, text in answers], expected, "the swarm")
    with Engines(path, even_spans(manifest.layers, 2), 1) as halves:
        for (prompt, tokens, text), _ in zip(answers, range(options.rounds), strict=False):
            for chunk in options.chunks:
                answer = halves.answer([prompt], tokens, chunk)
                check_answers(answer.texts, [text], f"chunks of {chunk} without pipelining")
                figures.setdefault(f"chunks_of_{chunk}_s", []).append(answer.first_s)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, default=None)
    parser.add_argument("--prompt", type=int, default=2048, help="tokens of the long prompt")
    parser.add_argument("--tokens", type=int, default=8, help="of the long prompt's answer")
    parser.add_argument("--stream", type=int, default=384, help="tokens of the other stream's answer")
    parser.add_argument("--chunks", type=int, nargs="+", default=[512, MAX_STEP_ROWS], help="at most 512 each")
    parser.add_argument("--rounds", type=int, default=1)
    options = parser.parse_args()
    path = options.model or demo_model()
    manifest = open_model(path)
    begin()
    with temporary_cache():
        rounds, answers = measure_swarms(path, manifest, Prompts(manifest.vocabulary), options)
        rounds |= measure_engines(path, manifest, answers, options)
    figures = {name: statistics.median(values) for name, values in rounds.items()}
    sums = {chunk: figures[f"chunks_of_{chunk}_s"] for chunk in options.chunks}
    chunk = min(sums, key=lambda size: sums[size])
    rows = [["1 stage", figures["stages_1_s"]], ["2 stages, pipelined", figures["stages_2_s"]]]
    rows += [[f"2 stages, without pipelining, chunks of {size}", seconds] for size, seconds in sums.items()]
    rows.append(["2 stages, beside another stream", figures["disturbed_prompt_s"]])
    print_table(
        [f"{options.prompt}-token prompt", "first token", "tokens/s"],
        [[name, f"{seconds:.2f} s", f"{options.prompt / seconds:.0f}"] for name, seconds in rows],
    )
    print("Without pipelining: both halves in one process, one thread on one core, one after the other; no wire.")
    print_table(
        ["another stream, between tokens", "p50", "p95"],
        [
            [name, *(f"{1e3 * figures[f'{name}_gap_p{share}_s']:.1f} ms" for share in (50, 95))]
            for name in ("quiet", "disturbed")
        ],
    )
    if not figures["disturbed_gaps"]:
        print("No token of the other stream came while the prompt was computed.")
    ratios = {
        "pipelining": print_aim(
            f"two stages over the same without pipelining (chunks of {chunk})",
            sums[chunk] / figures["stages_2_s"],
            at_least=1.7,
        ),
        "another_stream_p95": print_aim(
            "another stream's p95 between tokens over its quiet value",
            figures["disturbed_gap_p95_s"] / figures["quiet_gap_p95_s"],
            below=3,
        ),
        "over_1_stage": figures["stages_1_s"] / figures["stages_2_s"],
    }
    print_json(
        "prefill",
        model=manifest.name,
        prompt=options.prompt,
        threads_a_node=1,
        figures=figures,
        rounds=rounds,
        ratios=ratios,
        answers_equal=True,
    )


if __name__ == "__main__":
    main()
