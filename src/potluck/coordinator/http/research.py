"""The endpoints that OpenAI's API lacks: the tokens of a text, the text of tokens, and hidden rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import msgspec
import numpy as np
from safetensors.numpy import save
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from potluck.coordinator.generation.hidden_states import HiddenStates
from potluck.coordinator.http.bodies import body_is_read
from potluck.coordinator.http.inbound import CLIENT_GONE, ClientGone, body_of, while_connected
from potluck.coordinator.http.models import Models
from potluck.coordinator.http.parsing import parse
from potluck.coordinator.http.research_requests import DetokenizeRequest, HiddenStatesRequest, TokenizeRequest
from potluck.coordinator.http.service import Service, checked_tokens
from potluck.coordinator.sessions.claim import Claim
from potluck.coordinator.text.encoder import TooManyTokens
from potluck.errors import RequestError
from potluck.wire.rows import Ids


@dataclass(frozen=True)
class Research:
    """The endpoints for researchers, for the models that are served.

    hidden: the maker of hidden rows of each, by its name.
    """

    served: Models
    hidden: Mapping[str, HiddenStates]

    async def tokenizer_info(self, request: Request) -> Response:
        """GET /tokenizer_info"""
        tokenizer = (await self.served.of(request, request.query_params.get("model", ""))).tokenizer
        named = {"bos_token": tokenizer.bos or None, "eos_token": tokenizer.eos or None}
        return JSONResponse({**named, "chat_template": tokenizer.chat_template})

    async def tokenize(self, request: Request) -> Response:
        """POST /tokenize"""
        asked = parse(await body_of(request), TokenizeRequest)
        service, (text, begins) = await self.served.of(request, asked.model), asked.given
        show = partial(service.encoder.shown, text, bos=begins, pieces=asked.with_pieces)
        tokens = await service.pool.of(request, show)
        return Response(b'{"tokens":' + tokens + b"}", media_type="application/json")

    async def detokenize(self, request: Request) -> Response:
        """POST /detokenize"""
        asked = parse(await body_of(request), DetokenizeRequest)
        service = await self.served.of(request, asked.model)
        tokens = checked_tokens(asked.tokens, service.tokenizer, "tokens")
        text = await service.pool.of(request, partial(service.encoder.text_of, tokens))
        body = msgspec.json.encode({"content": text, "prompt": text})
        return Response(body, media_type="application/json")

    async def hidden_states(self, request: Request) -> Response:
        """POST /v1/hidden_states"""
        wanted = await self._read(request)
        body_is_read(request)
        hidden = self.hidden[wanted.model]
        try:
            rows = await while_connected(request, hidden.rows(wanted.tokens, wanted.layer, wanted.claim))
        except ClientGone:
            return Response(status_code=CLIENT_GONE)
        named = {"model": wanted.model, "layer": str(wanted.layer)}
        save_all = partial(save, {"hidden_states": rows, "tokens": wanted.tokens}, named)
        body = await self.served.pool.of(request, save_all)
        return Response(body, media_type="application/octet-stream")

    async def _read(self, request: Request) -> _Wanted:
        asked = parse(await body_of(request), HiddenStatesRequest)
        service = await self.served.of(request, asked.model)
        _check_layer(asked.layer, self.hidden[service.model].layers)
        tokens = await _prompt(service, request, asked)
        return _Wanted(service.model, tokens, asked.layer, service.claim(request, asked.priority))


class _Wanted(NamedTuple):
    """The tokens of which the rows behind a layer are wanted."""

    model: str
    tokens: Ids
    layer: int
    claim: Claim


def _check_layer(layer: int, layers: int) -> None:
    last = layers - 1
    if not 0 <= layer < last:
        message = f"layer must lie between 0 and {last - 1}, not {layer}: the model's last layer gives no rows."
        raise RequestError(message, param="layer")


async def _prompt(service: Service, request: Request, asked: HiddenStatesRequest) -> Ids:
    param = "prompt" if asked.tokens is None else "tokens"
    try:
        tokens = await service.tokens_of(request, asked.given, param)
    except TooManyTokens as error:
        raise _too_long(service, error.count, param) from error
    if len(tokens) > service.context:
        raise _too_long(service, len(tokens), param)
    return np.array(tokens, np.int32)


def _too_long(service: Service, tokens: int, param: str) -> RequestError:
    message = f"The prompt has {tokens} tokens, more than the context of {service.context}."
    return RequestError(message, param=param, code="context_length_exceeded")
