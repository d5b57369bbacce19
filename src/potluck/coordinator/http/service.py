"""Answers requests for one model: makes jobs of them, and JSON or server-sent events of what is generated."""

from __future__ import annotations

import logging
import sys
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import NamedTuple

from starlette.requests import Request
from starlette.responses import Response

from potluck.coordinator.event_stream import EventStream
from potluck.coordinator.generation.grammar import Grammar, Grammars
from potluck.coordinator.generation.job import Delta, Job
from potluck.coordinator.generation.reading import under_way
from potluck.coordinator.generation.sampling import Bias, SamplingParams
from potluck.coordinator.http.bodies import body_is_read
from potluck.coordinator.http.completion_form import CompletionForm, Echo
from potluck.coordinator.http.ends import Ends, ends_of
from potluck.coordinator.http.identities import Identities
from potluck.coordinator.http.inbound import CLIENT_GONE, ClientGone, while_connected
from potluck.coordinator.http.keeping import identities_of, keeping_of, no_keeper
from potluck.coordinator.http.pool import Pool
from potluck.coordinator.http.replies import ChatForm, Form, Usage
from potluck.coordinator.http.requests import MOST_ANSWERS, ChatRequest, Common, CompletionRequest
from potluck.coordinator.http.streaming import SILENCE_S, Door, OpenDoor, events, merge, whole
from potluck.coordinator.http.template_options import continued, continues, template_options
from potluck.coordinator.sessions.claim import Claim, Rank
from potluck.coordinator.sessions.demand import ModelState
from potluck.coordinator.text.calls.registry import CONTROLS, Offer
from potluck.coordinator.text.controls import Controls
from potluck.coordinator.text.encoder import Encoder, Prompt, TooManyTokens
from potluck.coordinator.text.thinking import Place, Thinking
from potluck.coordinator.text.tokenizer import Tokenizer
from potluck.errors import RequestError
from potluck.types import Priority

log = logging.getLogger(__name__)

_MOST_LIFTED = 1 << 18
"""Every step of an answer asks the nodes for all tokens that a bias raises. This many are a whole vocabulary."""


class Read(NamedTuple):
    """A request that has been read: what its answer needs, without the objects that its body was made into.

    door: the form of the API that was asked.
    """

    form: Form
    jobs: list[Job]
    usage: Usage
    stream: bool
    include_usage: bool
    identities: Identities
    door: Door = OpenDoor()


def claim_of_all(_: Request, priority: Priority) -> Claim:
    """The claim of all requests in a swarm that has no accounts."""
    return Claim(rank=Rank.of(priority))


@dataclass(frozen=True)
class Service:
    """Answers requests for one model. generate: makes one answer. context: the most positions of a session.

    tokenizer: for single tokens; encoder: for texts and chats, which may take long and are therefore read in the pool.
    created: Unix time, for the list of models. claim: returns the claim of a request with this priority.
    embedded: how many ids the model itself knows. A tokenizer may know more, which no node could run.
    defaults: the sampling of requests that do not say it.
    silence_s: the seconds of silence after which a stream says that it is alive. aliases: further names of the model.
    digest: the model's, by which another coordinator knows whether it can go on with an answer.
    state: returns that of the model.
    """

    generate: Callable[[Job], AsyncGenerator[Delta, None]]
    tokenizer: Tokenizer
    encoder: Encoder
    model: str
    context: int
    created: int
    claim: Callable[[Request, Priority], Claim] = claim_of_all
    pool: Pool = field(default_factory=Pool)
    embedded: int = sys.maxsize
    defaults: SamplingParams = field(default_factory=SamplingParams)
    silence_s: float = SILENCE_S
    aliases: tuple[str, ...] = ()
    digest: str = ""
    state: Callable[[], ModelState] = lambda: ModelState.READY

    def __post_init__(self) -> None:
        # The whole vocabulary is read now: while requests are answered, it would hold up the event loop.
        _ = self._controls, self._marks

    @property
    def names(self) -> tuple[str, ...]:
        """All names of the model, the one that answers say first."""
        return (self.model, *self.aliases)

    async def ready(self) -> Service:
        return self

    async def read_chat(self, request: Request, asked: ChatRequest) -> Read:
        """Make jobs of a chat. Raises RequestError when it cannot be answered.

        Whoever calls this keeps no name for what was asked, so that it is gone while the answer is made.
        """
        prompt = await self._chat_prompt(request, asked)
        limit, claim = self._limit(asked, prompt.tokens), self.claim(request, asked.urgency)
        grammar = await self._thoughtful_grammar(request, asked, prompt.place)
        ends = self._ends(asked, self.encoder.stops, prompt.end)
        thinking = self.encoder.thinking or Thinking.THINK
        shown = ends.shown | self._controls.in_text(thinking.value.all)
        offer, usage = self._offer(asked), Usage(len(prompt.tokens))
        prediction, identities = await self._predicted(request, asked, continued(asked)), identities_of(request)
        form = ChatForm(
            self.model,
            self.tokenizer,
            bool(asked.logprobs),
            offer,
            thinking=thinking,
            place=prompt.place,
            tells_thinking=asked.tells_thinking,
            usage=usage,
            identities=identities,
        )
        jobs = [
            Job(
                prompt=prompt.tokens,
                params=params,
                max_tokens=limit,
                stops=ends.stops,
                stop_ids=ends.ids,
                shown=shown | self._marks if offer else shown,
                logprobs=asked.alternatives,
                ignore_eos=asked.ignore_eos,
                min_tokens=asked.least(limit),
                claim=claim,
                prediction=prediction,
                grammar=grammar,
                progress=asked.tells_progress,
                watch=form.watch if offer and offer.once else None,
            )
            for params in self._sampling(asked, asked.choices)
        ]
        return Read(form, jobs, usage, asked.stream, asked.include_usage, identities)

    async def count(self, request: Request, asked: ChatRequest) -> int:
        """The number of tokens of a chat's prompt, also where it does not fit into the context."""
        try:
            return len((await self._chat_prompt(request, asked)).tokens)
        except RequestError as error:
            if isinstance(error.__cause__, TooManyTokens):
                return error.__cause__.count
            raise

    async def _chat_prompt(self, request: Request, asked: ChatRequest) -> Prompt:
        options = template_options(asked)
        encode = partial(self.encoder.of_chat, asked.messages, options, most=self.context)
        try:
            prompt = await self.pool.of(request, encode)
        except TooManyTokens as error:
            raise self._too_long(error.count, "messages") from error
        self._known(prompt.tokens, "messages")
        return prompt

    def _ends(self, asked: Common, usual: tuple[str, ...] = (), turn_end: str | None = None) -> Ends:
        """What ends the answers, as `ends_of` has it. Raises RequestError when a token is outside the vocabulary."""
        checked_tokens(asked.stop_token_ids or [], self.tokenizer, "stop_token_ids")
        return ends_of(asked, self._controls, usual, turn_end)

    def _offer(self, asked: ChatRequest) -> Offer | None:
        """The tools that the answer may call."""
        tools = {tool.function.name: tool.function.parameters or {} for tool in asked.offered}
        return Offer(tools, self.encoder.calls, asked.calls_once, bool(asked.demanded)) if tools else None

    async def read_completion(self, request: Request, asked: CompletionRequest) -> Read:
        """Make jobs of a text to continue, as `read_chat` does of a chat."""
        if len(asked.prompts) * asked.choices > MOST_ANSWERS:
            raise RequestError(f"Prompts times n may be at most {MOST_ANSWERS}.", param="n")
        try:
            prompts = [await self.tokens_of(request, prompt, "prompt") for prompt in asked.prompts]
        except TooManyTokens as error:
            raise self._too_long(error.count, "prompt") from error
        claim, grammar = self.claim(request, asked.urgency), await self._grammar(request, asked)
        ends, prediction = self._ends(asked), await self._predicted(request, asked)
        repeated = [prompt for prompt in prompts for _ in range(asked.choices)]
        jobs = [
            self._completion(asked, prompt, params, claim, grammar, ends, prediction)
            for params, prompt in zip(self._sampling(asked, len(prompts) * asked.choices), repeated, strict=True)
        ]
        told = [await self._echo(request, prompt) if asked.echo else Echo() for prompt in prompts]
        echoes = [echo for echo in told for _ in range(asked.choices)]
        logprobs, identities = asked.alternatives is not None, identities_of(request)
        form = CompletionForm(self.model, self.tokenizer, logprobs, echoes, ends.shown, identities)
        return Read(form, jobs, Usage(sum(map(len, prompts))), asked.stream, asked.include_usage, identities)

    def _completion(
        self,
        asked: CompletionRequest,
        prompt: list[int],
        params: SamplingParams,
        claim: Claim,
        grammar: Grammar | None,
        ends: Ends,
        prediction: tuple[int, ...],
    ) -> Job:
        echo = asked.echo and asked.alternatives is not None
        limit = self._limit(asked, prompt)
        return Job(
            prompt=prompt,
            params=params,
            max_tokens=limit,
            stops=ends.stops,
            stop_ids=ends.ids,
            shown=ends.shown,
            logprobs=asked.alternatives,
            echo=echo,
            ignore_eos=asked.ignore_eos,
            min_tokens=asked.least(limit),
            claim=claim,
            prediction=prediction,
            grammar=grammar,
            progress=asked.tells_progress,
        )

    async def _echo(self, request: Request, prompt: list[int]) -> Echo:
        return Echo(await self.pool.of(request, partial(self.encoder.text_of, prompt)), len(prompt))

    async def tokens_of(self, request: Request, prompt: str | list[int], param: str) -> list[int]:
        """The tokens of a prompt. param: the field that contains it. Raises TooManyTokens for a text that does not fit
        into the context.
        """
        if isinstance(prompt, str):
            return self._known(
                await self.pool.of(request, partial(self.encoder.of_text, prompt, most=self.context)), param
            )
        return self._known(checked_tokens(prompt, self.tokenizer, param), param)

    async def _predicted(self, request: Request, asked: Common, begun: str = "") -> tuple[int, ...]:
        """The tokens that the answer will probably be, as many as the context has. begun: the text that it continues,
        with which the prediction of all of it begins.
        """
        text = asked.prediction.text.removeprefix(begun) if asked.prediction else ""
        if not text:
            return ()
        tokens = await self.pool.of(request, partial(self.encoder.of_prediction, text, most=self.context))
        return tuple(token for token in tokens if token < self.embedded)  # nodes are never given any other

    def _known(self, tokens: list[int], param: str) -> list[int]:
        """Raises RequestError when the model has no row for a token that its tokenizer has."""
        if max(tokens, default=0) >= self.embedded:
            raise RequestError(f"{param} has a token that the model does not know: {max(tokens)}.", param=param)
        return tokens

    async def _grammar(self, request: Request, asked: Common) -> Grammar | None:
        """The grammar that the answer must follow."""
        structure = asked.prescribed
        return None if structure is None else await self.pool.of(request, partial(self.grammars.of, structure))

    async def _thoughtful_grammar(self, request: Request, asked: ChatRequest, place: Place) -> Grammar | None:
        """The grammar of the whole answer, which may begin with thinking. place: where the prompt ends in it."""
        grammar, thinking = await self._chat_grammar(request, asked), self.encoder.thinking
        if grammar is not None and continues(asked) and not place.is_thinking:
            message = (
                f"{grammar.param} prescribes a whole answer, and the last message begins one: leave one of them out."
            )
            raise RequestError(message, param=grammar.param)
        if grammar is None or thinking is None or place is Place.TEXT:
            return grammar
        marks = thinking.value
        if asked.demanded and self.encoder.calls.has_channel:
            marks = marks._replace(heads=(*marks.heads[:1], ""))  # the answer's own channel is not opened
        later = partial(self.grammars.after_thinking, grammar, marks, is_open=place.is_thinking)
        return await self.pool.of(request, later)

    async def _chat_grammar(self, request: Request, asked: ChatRequest) -> Grammar | None:
        """The grammar that a chat's answer must follow: that of the call if the answer must call a tool."""
        tools = {tool.function.name: tool.function.schema for tool in asked.demanded}
        if not tools:
            return await self._grammar(request, asked)
        several = not asked.calls_once
        return await self.pool.of(request, partial(self.grammars.of_calls, self.encoder.calls, tools, several=several))

    @cached_property
    def _controls(self) -> Controls:
        return Controls(self.tokenizer, self.embedded)

    @cached_property
    def _marks(self) -> frozenset[int]:
        """The control tokens that are marks of calls. Without their text, no call would be found."""
        return frozenset(token for mark in CONTROLS if (token := self._controls.named(mark)) is not None)

    @cached_property
    def grammars(self) -> Grammars:
        return Grammars(self.tokenizer, self.embedded, self._controls)

    def _sampling(self, asked: Common, choices: int) -> list[SamplingParams]:
        """The parameters of so many answers."""
        params = [asked.sampling(choice, self.defaults) for choice in range(choices)]
        vocabulary = min(self.tokenizer.vocabulary, self.embedded)
        bias = params[0].logit_bias
        if max(bias, default=-1) >= vocabulary:
            raise RequestError(f"logit_bias names a token outside 0-{vocabulary - 1}.", param="logit_bias")
        if isinstance(bias, Bias) and len(bias.lifted) * choices > _MOST_LIFTED:
            message = f"logit_bias may raise at most {_MOST_LIFTED} tokens, counted anew for each of several answers."
            raise RequestError(message, param="logit_bias")
        return params

    def _limit(self, asked: ChatRequest | CompletionRequest, prompt: list[int]) -> int:
        """The most tokens of the answer: what is asked for, or what the prompt leaves of the context. Raises
        RequestError when that is nothing.
        """
        limit, room = asked.limit, self.context - len(prompt)
        if not prompt:
            raise RequestError("The prompt is empty.", param="prompt")
        if room < 1:
            raise self._too_long(len(prompt), "messages" if isinstance(asked, ChatRequest) else "prompt")
        return room if limit is None or limit < 0 else min(limit, room)

    def _too_long(self, tokens: int, param: str) -> RequestError:
        message = f"The prompt has {tokens} tokens, more than the context of {self.context} leaves room for."
        return RequestError(message, param=param, code="context_length_exceeded")

    async def answer(self, request: Request, read: Read) -> Response:
        """Generate all choices at once. Errors before the reply begins have an HTTP status of their own.

        A stream is kept, if there is a shelf for it, and goes on if the request says so.
        """
        body_is_read(request)
        form, choices, usage, keeping = read.form, len(read.jobs), read.usage, keeping_of(request)
        if keeping is None or not read.stream:
            jobs, begin = read.jobs, no_keeper()
            if keeping is not None:
                keeping.forget()
        else:
            jobs, begin = keeping.prepare(read.jobs, read.identities, self.digest)
        deltas = merge([self.generate(job) for job in jobs], self.silence_s if read.stream else None)
        async with under_way(begin) as began:  # while the prompt is read
            try:
                if not read.stream:
                    return await while_connected(request, whole(form, deltas, choices, usage, read.door))
                first = await while_connected(request, anext(deltas))
            except ClientGone:
                return Response(status_code=CLIENT_GONE)
            keeper = await began
        told = events(form, first, deltas, choices, usage, read.include_usage, read.door, keeper)
        return EventStream(told, keeper.end, keeper.headers)


def checked_tokens(tokens: list[int], tokenizer: Tokenizer, param: str) -> list[int]:
    """Raises RequestError, naming the field, when a token is outside the vocabulary."""
    if tokens and not 0 <= min(tokens) <= max(tokens) < tokenizer.vocabulary:
        raise RequestError(f"{param} names a token outside 0-{tokenizer.vocabulary - 1}.", param=param)
    return tokens
