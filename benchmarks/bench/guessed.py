"""The speed of streams with guessing on and off, in turns within one swarm, and what the guesses were worth."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import httpx
from prometheus_client.parser import text_string_to_metric_families

from bench.engines import Engines
from bench.guesses import PROGRAM, Script
from bench.prompts import Prompt
from bench.record import Aim, Figure, Measure
from bench.rounds import Values, percentile
from bench.streams import Stream, all_gaps, ask_together, check_answers, tokens_per_s
from potluck.coordinator.generation.guesses import Guesses
from potluck.local import LocalSwarm

OFF, ON = Measure("off", "tokens/s"), Measure("on", "tokens/s")
RATIO, P95 = Measure("on/off", "ratio"), Measure("p95 between tokens, on/off", "ratio")
ROWS, RIGHT = Measure("rows a token", "count"), Measure("right guesses", "%")
WARM = 16
"""The tokens of each answer that is not measured."""
SETTLE_S = 0.5
"""The rows of void steps come in after the answer."""


class Counts(NamedTuple):
    """What a coordinator has counted so far."""

    rows: float
    prompt: float
    generated: float
    right: float
    wrong: float
    void: float

    @property
    def guesses(self) -> float:
        """The tokens that were fed before they were known."""
        return self.right + self.wrong + self.void

    @classmethod
    def read(cls, url: str) -> Counts:
        reply = httpx.get(f"{url}/metrics", timeout=60.0, trust_env=False).raise_for_status()
        families = text_string_to_metric_families(reply.text)
        samples = [sample for family in families for sample in family.samples]

        def total(name: str, **labels: str) -> float:
            found = [one.value for one in samples if one.name == name and labels.items() <= one.labels.items()]
            return sum(found)

        return cls(
            total("potluck_rows_total"),
            total("potluck_tokens_total", kind="prompt"),
            total("potluck_tokens_total", kind="generated"),
            total("potluck_guesses_total", outcome="right"),
            total("potluck_guesses_total", outcome="wrong"),
            total("potluck_guesses_total", outcome="void"),
        )

    @classmethod
    def settled(cls, url: str) -> Counts:
        """The counts once no more rows come in."""
        counts = cls.read(url)
        while True:
            time.sleep(SETTLE_S)
            before, counts = counts, cls.read(url)
            if counts == before:
                return counts


@dataclass
class Swarm:
    """A swarm whose coordinator guesses as it is told. unsplit: gives the answers that it should give."""

    local: LocalSwarm
    script: Path
    nodes: int
    model: str
    unsplit: Engines

    def measure(self, texts: Sequence[tuple[Prompt, Prompt]], alone: Sequence[str], script: Script) -> Values:
        """Ask all prompts at once. texts: prompts and answers. alone: the texts of the answers."""
        script.write(self.script)
        begun = Counts.settled(self.local.url)
        prompts = [prompt for prompt, _ in texts]
        streams = ask_together(self.local.url, self.model, prompts, len(texts[0][1]))
        check_answers([stream.text for stream in streams], alone, f"{len(prompts)} streams, guessing {script.guess}")
        changed = [now - then for now, then in zip(Counts.settled(self.local.url), begun, strict=True)]
        return values_of(streams, Counts(*changed), self.nodes)

    def compare(
        self, prompts: Sequence[Prompt], tokens: int, guesses: Sequence[str], place: str, number: int
    ) -> dict[str, Values]:
        """The values of each way to guess, and of "off". number: of the round; odd ones go the other way round."""
        answers = self.unsplit.answer(prompts, tokens)
        texts = list(zip(prompts, answers.ids, strict=True))
        known = [prompt + answer for prompt, answer in texts]
        order = ["off", *guesses][:: -1 if number % 2 else 1]
        self._warm(prompts)
        return {
            guess: self.measure(texts, answers.texts, Script(guess, place=place, seed=number, texts=known))
            for guess in order
        }

    def _warm(self, prompts: Sequence[Prompt]) -> None:
        """Have the nodes read the prompts and compute for a while: they have given way to the unsplit engine."""
        Script().write(self.script)
        ask_together(self.local.url, self.model, prompts, WARM)


def values_of(streams: list[Stream], changed: Counts, nodes: int) -> Values:
    """changed: what was counted for these streams. A token that ends an answer is never fed, so it has no row."""
    gaps, judged = all_gaps(streams), changed.right + changed.wrong
    one = len(streams) == 1
    return {
        "tokens_per_s": len(gaps) / sum(gaps) if one else tokens_per_s(streams),
        "gap_p95_s": percentile(gaps, 95),
        "rows": (changed.rows / nodes - changed.prompt) / (changed.generated - len(streams)),
        "right": 100 * changed.right / judged if judged else 0.0,
    }


@contextmanager
def scripted_swarm(model: Path, serve: Sequence[str], join: Sequence[str] = ()) -> Iterator[tuple[LocalSwarm, Path]]:
    """A coordinator without nodes, and the file with the script by which it guesses, which at first is not to."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "script.json"
        Script().write(path)
        with LocalSwarm(model, [], serve=serve, join=join, program=(str(PROGRAM), str(path))) as local:
            yield local, path


def figures_of(case: str, guess: str, rounds: Sequence[dict[str, Values]], aims: dict[str, Aim]) -> list[Figure]:
    """What a way to guess was worth. aims: by the name of the measure."""

    def over(name: str) -> list[float]:
        return [one[guess][name] / one["off"][name] for one in rounds]

    on = [one[guess] for one in rounds]
    right = [one["right"] for one in on]
    return [
        OFF.of(case, [one["off"]["tokens_per_s"] for one in rounds]),
        ON.of(case, [one["tokens_per_s"] for one in on]),
        RATIO.of(case, over("tokens_per_s"), aims.get(RATIO.name)),
        ROWS.of(case, [one["rows"] for one in on], aims.get(ROWS.name)),
        *([RIGHT.of(case, right)] if any(right) else []),
        *([P95.of(case, over("gap_p95_s"), aims[P95.name])] if P95.name in aims else []),
    ]


def repeats(prompt: Prompt, answer: Prompt) -> bool:
    """Whether the answer repeats something, so that a coordinator guesses anything of it without a small model."""
    guesses = Guesses(prompt)
    return any(guesses.copy(prompt + answer[:count], (), None) for count in range(len(answer)))
