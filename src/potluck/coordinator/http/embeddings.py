"""The embeddings endpoint: texts as vectors, which are the means of the hidden rows of the model that is served."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Literal, NamedTuple

import msgspec
import numpy as np
from msgspec import Meta, Struct
from numpy.typing import NDArray
from starlette.requests import Request
from starlette.responses import Response

from potluck.coordinator.generation.hidden_states import HiddenStates
from potluck.coordinator.http import answers
from potluck.coordinator.http.bodies import body_is_read
from potluck.coordinator.http.habits import refuse_unsupported
from potluck.coordinator.http.inbound import CLIENT_GONE, ClientGone, body_of, while_connected
from potluck.coordinator.http.models import Models
from potluck.coordinator.http.parsing import described, parse, refused_with
from potluck.coordinator.http.service import Service
from potluck.coordinator.sessions.chunks import in_order
from potluck.coordinator.sessions.claim import Claim
from potluck.coordinator.text.encoder import TooManyTokens
from potluck.errors import RequestError
from potluck.types import Priority
from potluck.wire.rows import Ids

Vector = NDArray[np.float32]
Encoding = Literal["float", "base64"]

_MOST_INPUTS = 2048
_MOST_VALUES = 1 << 22
"""The numbers of all vectors of an answer, which take 20 bytes each where they are written out."""
_BESIDE = 3
"""The further inputs that are computed at the same time as the first one that is not ready."""

_INPUT = f"input must be a text, a list of token ids, or a list of up to {_MOST_INPUTS} of these, none empty."
_GIVEN = refused_with(_INPUT, min_length=1)
_Text = Annotated[str, _GIVEN]
_Token = Annotated[int, described(minimum=0, maximum=2**31 - 1)]
_Tokens = Annotated[list[_Token], _GIVEN]


class EmbeddingsRequest(Struct, frozen=True, kw_only=True):
    """A request for one vector for each input. dimensions: how many of its first numbers are wanted."""

    input: _Text | Annotated[list[_Text | _Token | _Tokens], _GIVEN]
    model: str = ""
    encoding_format: Encoding = "float"
    dimensions: Annotated[int, Meta(ge=1)] | None = None
    priority: Priority = Priority.INTERACTIVE

    @property
    def inputs(self) -> list[str | list[int]]:
        """The inputs, each as a text or as token ids."""
        given = [self.input] if isinstance(self.input, str) else self.input
        tokens = [one for one in given if isinstance(one, int)]
        others = [one for one in given if not isinstance(one, int)]
        if (tokens and others) or len(others) > _MOST_INPUTS:
            raise RequestError(_INPUT, param="input")
        return [tokens] if tokens else others


class _Wanted(NamedTuple):
    """What is left of a request when it has been read, without the objects that its body was made into."""

    model: str
    inputs: list[Ids]
    claim: Claim
    dimensions: int | None
    encoding_format: Encoding


@dataclass(frozen=True)
class Embeddings:
    """The endpoint, for the models that are served. hidden: the maker of hidden rows of each, by its name."""

    served: Models
    hidden: Mapping[str, HiddenStates]

    async def embed(self, request: Request) -> Response:
        """POST /v1/embeddings"""
        wanted = await self._read(request)
        body_is_read(request)
        try:
            vectors = await while_connected(request, _vectors(self.hidden[wanted.model], wanted))
        except ClientGone:
            return Response(status_code=CLIENT_GONE)
        tokens = sum(map(len, wanted.inputs))
        told = partial(_told, vectors, wanted.encoding_format, wanted.model, tokens)
        body = await self.served.pool.of(request, told)
        return Response(body, media_type="application/json")

    async def _read(self, request: Request) -> _Wanted:
        asked = parse(await body_of(request, self.served.context), EmbeddingsRequest, refuse_unsupported)
        service = await self.served.of(request, asked.model)
        hidden = self.hidden[service.model]
        if hidden.layers < 2:
            raise RequestError("This model has one layer, which gives no hidden rows to make embeddings of.")
        _check_size(asked, hidden.width)
        inputs = [await _tokens(service, request, one) for one in asked.inputs]
        claim = service.claim(request, asked.priority)
        return _Wanted(service.model, inputs, claim, asked.dimensions, asked.encoding_format)


def _check_size(asked: EmbeddingsRequest, width: int) -> None:
    if asked.dimensions is not None and asked.dimensions > width:
        raise RequestError(f"dimensions may be at most {width}, not {asked.dimensions}.", param="dimensions")
    most = _MOST_VALUES // (asked.dimensions or width)
    if len(asked.inputs) > most:
        raise RequestError(f"An answer has at most {most} vectors of this size: send fewer inputs.", param="input")


async def _tokens(service: Service, request: Request, one: str | list[int]) -> Ids:
    """The tokens of an input. Raises RequestError when there are none, or more than the context."""
    try:
        tokens = await service.tokens_of(request, one, "input")
    except TooManyTokens as error:
        raise _too_long(service, error.count) from error
    if not tokens:
        raise RequestError(_INPUT, param="input")
    if len(tokens) > service.context:
        raise _too_long(service, len(tokens))
    return np.array(tokens, np.int32)


def _too_long(service: Service, tokens: int) -> RequestError:
    message = f"An input has {tokens} tokens, more than the context of {service.context}."
    return RequestError(message, param="input", code="context_length_exceeded")


async def _vectors(hidden: HiddenStates, wanted: _Wanted) -> list[Vector]:
    """The vectors of the inputs. A few are computed at once, so that all stages work."""
    layer = embedding_layer(hidden.layers)
    sums = (hidden.sum(tokens, layer, wanted.claim) for tokens in wanted.inputs)
    async with aclosing(in_order(sums, ahead=_BESIDE)) as done:
        return [_unit(total[: wanted.dimensions]) async for total in done]


def embedding_layer(layers: int) -> int:
    """The layer whose rows are used: behind three quarters of the model, where rows stand most for what was meant.

    Later ones stand for the next token, and take longer. The last one gives no rows.
    """
    return min(3 * layers // 4, layers - 2)


def _unit(vector: NDArray[np.float64]) -> Vector:
    """The vector with a length of 1. One that has no direction stays as it is."""
    length = float(np.linalg.norm(vector))
    return (vector / length if length else vector).astype(np.float32)


def _told(vectors: Sequence[Vector], form: Encoding, model: str, tokens: int) -> bytes:
    """The answer's body."""
    data = [answers.Embedding("embedding", index, _written(vector, form)) for index, vector in enumerate(vectors)]
    return msgspec.json.encode(answers.Embeddings("list", data, model, answers.PromptUsage(tokens, tokens)))


def _written(vector: Vector, form: Encoding) -> list[float] | str:
    return vector.tolist() if form == "float" else b64encode(vector.astype("<f4").tobytes()).decode()
