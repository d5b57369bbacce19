"""What to generate, and what comes of it piece by piece."""

from __future__ import annotations

from dataclasses import dataclass, field

from potluck.coordinator.generation.grammar import Grammar
from potluck.coordinator.generation.reading import Progress
from potluck.coordinator.generation.sampling import SamplingParams
from potluck.coordinator.sessions.claim import EVERYONE, Claim


@dataclass(frozen=True, kw_only=True)
class Job:
    """What to generate. `logprobs`: how many top alternatives to report, None for no log-probabilities.

    echo: score the prompt's own tokens as well (OpenAI's `echo` with `logprobs`).
    ignore_eos: go on after the model's end of text, as benchmarks want it.
    min_tokens: neither the model nor a stop string can end the answer before it has so many.
    grammar: what the answer must look like. It says where the answer may end, so that min_tokens must be 0.
    progress: tell how far the prompt has been read, too.
    """

    prompt: list[int]
    params: SamplingParams
    max_tokens: int
    stops: tuple[str, ...] = ()
    logprobs: int | None = None
    echo: bool = False
    ignore_eos: bool = False
    min_tokens: int = 0
    claim: Claim = EVERYONE
    grammar: Grammar | None = None
    progress: bool = False


@dataclass(frozen=True)
class Scored:
    """A token with its log-probability and the most likely alternatives, best first."""

    token: int
    logprob: float | None
    top: tuple[tuple[int, float], ...] = ()


@dataclass
class Delta:
    """What one step adds to an answer. finish: "stop" or "length" with the last one.

    generated: 1 where the step sampled a token, shown or not; 0 where it only scored the prompt.
    progress: before the first token, if it was asked for: how far the prompt has been read. Then there is nothing else.
    cached: with the first that was sampled, how many tokens of the prompt the nodes held already.
    session: with the same one, the number by which `/trace` knows its session.
    nodes: with the last one, who computed the answer, each with its layers.
    """

    text: str = ""
    tokens: list[Scored] = field(default_factory=list)
    finish: str | None = None
    generated: int = 1
    progress: Progress | None = None
    cached: int = 0
    session: int | None = None
    nodes: tuple[str, ...] = ()
