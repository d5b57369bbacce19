"""How often small models guess SmolLM2's next token, for the copies of it that this machine can make.

    python benchmarks/guessers.py [--tokens 96] [--guesser itself Q4_0 Q2_K "24 layers" ...]

A small model guesses rightly where the token that it holds for likeliest, after the same text, is the next one of the
model's own greedy answer. It is given the true text each time, as it is when a wrong guess has been corrected.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from bench.engines import Engines
from bench.prompts import Prompt, chats
from bench.record import Figure, Measure
from bench.report import Report, options_parser
from bench.smaller import small_model
from potluck.coordinator.text.opening import open_tokenizer
from potluck.local import demo_model
from potluck.models.sources import open_model
from potluck.types import Span

GUESSERS = ("itself", "Q4_0", "Q2_K", "26 layers", "22 layers", "15 layers")
SIZE = Measure("size", "MiB")

Texts = dict[str, list[tuple[Prompt, Prompt]]]
"""Prompts with their answers, by their kind."""


def unsplit(model: Path) -> Engines:
    return Engines(model, [Span(0, open_model(model).layers - 1)], 1, 8)


def answered(model: Path, tokens: int) -> Texts:
    prompts = chats(open_tokenizer(model))
    with unsplit(model) as engine:
        answers = {kind: engine.answer(asked, tokens).ids for kind, asked in prompts.items()}
    return {kind: list(zip(asked, answers[kind], strict=True)) for kind, asked in prompts.items()}


def shares(guesser: Path, texts: Texts) -> dict[str, list[float]]:
    """The percentage of right guesses in each answer, by kind."""
    with unsplit(guesser) as engine:
        return {
            kind: [share(engine.likeliest(prompt + answer, len(prompt)), answer) for prompt, answer in answers]
            for kind, answers in texts.items()
        }


def share(guesses: list[int], answer: Prompt) -> float:
    return 100 * sum(guess == token for guess, token in zip(guesses, answer, strict=True)) / len(answer)


def figures_of(name: str, guesser: Path, found: dict[str, list[float]]) -> list[Figure]:
    return [
        SIZE.of(name, guesser.stat().st_size / 2**20),
        *(Measure(kind, "%").of(name, sum(each) / len(each)) for kind, each in found.items()),
    ]


def main() -> None:
    parser = options_parser(__doc__)
    parser.add_argument("--tokens", type=int, default=96)
    parser.add_argument("--guesser", nargs="+", default=list(GUESSERS), help="itself, Q4_0, '24 layers' or a file")
    options = parser.parse_args()
    report, model = Report("guessers", options), demo_model()
    texts, figures, details = answered(model, options.tokens), [], {}
    with tempfile.TemporaryDirectory() as folder:
        for name in options.guesser:
            guesser = small_model(model, name, Path(folder))
            details[name] = shares(guesser, texts)
            figures += figures_of(name, guesser, details[name])
            print(f"{name}: {details[name]}", flush=True)
    report.add({"right guesses of": figures})
    report.finish(shares=details)


if __name__ == "__main__":
    main()
