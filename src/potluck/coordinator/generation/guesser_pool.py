"""The small models that guess for one model: one beside the coordinator, and those on nodes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import cached_property

from potluck.coordinator.generation.guesses import Guesser
from potluck.coordinator.generation.small_model import AnswerGuesser, GuesserLost, SmallModel
from potluck.coordinator.text.tokenizer import Tokenizer
from potluck.coordinator.text.vocabularies import pieces
from potluck.errors import Refused, WireError
from potluck.types import GuesserOffer
from potluck.wire.guessing import MOST_TOLD, FromGuesser, decode_from_guesser, encode
from potluck.wire.vocabulary import packed

_LONGEST_REASON = 200


class GuesserPool:
    """Implements `GuesserModel` with whichever of them are here.

    model: the name of the model that is served. vocabulary: the number of ids that it has. context: the most positions
    of a session.
    """

    def __init__(self, model: str, tokenizer: Tokenizer, vocabulary: int, context: int) -> None:
        self.model = model
        self.context = context
        self._tokenizer = tokenizer
        self.vocabulary = min(vocabulary, tokenizer.vocabulary)
        self._models: list[SmallModel] = []

    async def packed_vocabulary(self) -> bytes:
        """What the tokens of the model that is served stand for, as the payload of a frame."""
        return await asyncio.to_thread(lambda: self._packed)  # it takes a while for many tokens

    @cached_property
    def _packed(self) -> bytes:
        return packed(pieces(self._tokenizer))

    def add(self, model: SmallModel) -> None:
        self._models.append(model)

    @property
    def names(self) -> list[str]:
        """The models that can guess now."""
        return [model.name for model in self._models if model.is_here]

    @property
    def is_here(self) -> bool:
        return any(model.is_here for model in self._models)

    def idlest(self, tokens: Sequence[int]) -> SmallModel | None:
        """The small model that guesses for the fewest answers, of those that can guess what follows these tokens."""
        able = (model for model in self._models if model.can_read(tokens))
        return min(able, key=lambda model: model.answers, default=None)

    def open(self) -> Guesser:
        return _Guesser(self)

    async def serve(
        self, offer: GuesserOffer, receive: Callable[[], Awaitable[bytes]], send: Callable[[bytes], None]
    ) -> None:
        """Let a small model at the other end of a link guess. It is there until this is cancelled or raises.

        receive, send: carry what it says and what it is told.
        Raises Refused when it is of no use, WireError when it cannot be understood, or what `receive` raises.
        """
        vocabulary = min(offer.vocabulary, self.vocabulary)
        model = SmallModel(offer.name, context=min(offer.context, self.context), vocabulary=vocabulary)
        self.add(model)
        try:
            await model.converse(lambda: _received(receive), lambda message: send(encode(message)))
        except GuesserLost as error:
            why = "".join(filter(str.isprintable, str(error)))[:_LONGEST_REASON]  # it may be the node's own words
            raise Refused(f"{offer.name} does not guess any more, because {why}.") from error
        finally:
            self._models.remove(model)


async def _received(receive: Callable[[], Awaitable[bytes]]) -> FromGuesser:
    told = await receive()
    if len(told) > MOST_TOLD:
        raise WireError(f"A small model said {len(told)} bytes at once.")
    return decode_from_guesser(told)


class _Guesser:
    """Implements `Guesser` for one answer, with another model when its own is lost or cannot follow any more."""

    def __init__(self, pool: GuesserPool) -> None:
        self._pool = pool
        self._own: AnswerGuesser | None = None
        self._is_over = False

    @property
    def is_here(self) -> bool:
        return self._pool.is_here

    async def guess(self, tokens: Sequence[int], ahead: int) -> int | None:
        if self._own is None or not self._own.is_here or not self._own.can_follow(tokens, ahead):
            self._leave()
            model = self._pool.idlest(tokens)
            self._own = model.open() if model is not None and not self._is_over else None
        return await self._own.guess(tokens, ahead) if self._own is not None else None

    def close(self) -> None:
        self._is_over = True
        self._leave()

    def _leave(self) -> None:
        if self._own is not None:
            self._own.close()
            self._own = None
