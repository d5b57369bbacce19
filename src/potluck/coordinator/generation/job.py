"""A job of generation, and the pieces of its answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from potluck.coordinator.generation.grammar import Grammar
from potluck.coordinator.generation.guesses import Guessed
from potluck.coordinator.generation.reading import Progress
from potluck.coordinator.generation.sampling import SamplingParams
from potluck.coordinator.sessions.claim import EVERYONE, Claim


@dataclass(frozen=True, kw_only=True)
class Job:
    """The description of one answer to generate.

    stop_ids: tokens that end this answer besides the model's own.
    shown: control tokens whose text belongs to the answer, where that of others is left out.
    logprobs: how many top alternatives to report; None for no log-probabilities.
    echo: score the prompt's own tokens as well (OpenAI's `echo` with `logprobs`).
    ignore_eos: continue after the model's end of text, as benchmarks need it.
    min_tokens: neither the model nor a stop string can end the answer before it has this many.
    prediction: tokens that the answer will probably be; they change nothing but how fast it comes.
    grammar: the form of the answer. It says where the answer may end, so min_tokens must be 0.
    progress: also report how far the prompt has been read.
    watch: begins to watch an answer. What it returns is told the text piece by piece, and says when that is over.
    given: the tokens that the answer has already, because it was begun elsewhere. They come again, in the same deltas.
    """

    prompt: list[int]
    params: SamplingParams
    max_tokens: int
    stops: tuple[str, ...] = ()
    stop_ids: frozenset[int] = frozenset()
    shown: frozenset[int] = frozenset()
    logprobs: int | None = None
    echo: bool = False
    ignore_eos: bool = False
    min_tokens: int = 0
    claim: Claim = EVERYONE
    prediction: tuple[int, ...] = ()
    grammar: Grammar | None = None
    progress: bool = False
    watch: Callable[[], Callable[[str], bool]] | None = None
    given: tuple[int, ...] = ()


@dataclass(frozen=True)
class Scored:
    """A token with its log-probability and the most likely alternatives, best first."""

    token: int
    logprob: float | None
    top: tuple[tuple[int, float], ...] = ()


@dataclass
class Delta:
    """The part that one step adds to an answer. finish: "stop" or "length" in the last one.

    generated: 1 if the step sampled a token, shown or not; 0 if it only scored the prompt.
    progress: before the first token, if it was asked for: how far the prompt has been read. Everything else is then
    empty.
    cached: with the first token, how many tokens of the prompt the nodes already held.
    session: with the first token, the number by which `/trace` knows its session.
    nodes: with the last token, the nodes that computed the answer, each with its layers.
    guessed: in the last one, what became of the tokens that were fed before they were known.
    stopped: in the last one, the stop string that ended the answer, if one did.
    """

    text: str = ""
    tokens: list[Scored] = field(default_factory=list)
    finish: str | None = None
    generated: int = 1
    progress: Progress | None = None
    cached: int = 0
    session: int | None = None
    nodes: tuple[str, ...] = ()
    stopped: str | None = None
    guessed: Guessed = field(default_factory=Guessed)
