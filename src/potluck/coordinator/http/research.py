"""The endpoints that OpenAI's API lacks: the tokens of a text, the text of tokens, and hidden rows."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import msgspec
import numpy as np
from safetensors.numpy import save
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from potluck.coordinator.generation.hidden_states import HiddenStates
from potluck.coordinator.http.bodies import body_is_read
from potluck.coordinator.http.inbound import CLIENT_GONE, ClientGone, body_of, while_connected
from potluck.coordinator.http.openai import Service, checked_tokens
from potluck.coordinator.http.parsing import parse
from potluck.coordinator.http.research_requests import DetokenizeRequest, HiddenStatesRequest, TokenizeRequest
from potluck.coordinator.sessions.claim import Claim
from potluck.coordinator.text.encoder import TooManyTokens
from potluck.errors import RequestError
from potluck.wire.rows import Ids


@dataclass(frozen=True)
class Research:
    """The endpoints for researchers, for the model that the service serves."""

    service: Service
    hidden: HiddenStates

    async def tokenizer_info(self, _: Request) -> Response:
        """GET /tokenizer_info"""
        tokenizer = self.service.tokenizer
        named = {"bos_token": tokenizer.bos or None, "eos_token": tokenizer.eos or None}
        return JSONResponse({**named, "chat_template": tokenizer.chat_template})

    async def tokenize(self, request: Request) -> Response:
        """POST /tokenize"""
        asked, service = parse(await body_of(request), TokenizeRequest), self.service
        text, begins = asked.given
        show = partial(service.encoder.shown, text, bos=begins, pieces=asked.with_pieces)
        tokens = await service.pool.of(request, show)
        return Response(b'{"tokens":' + tokens + b"}", media_type="application/json")

    async def detokenize(self, request: Request) -> Response:
        """POST /detokenize"""
        asked, service = parse(await body_of(request), DetokenizeRequest), self.service
        tokens = checked_tokens(asked.tokens, service.tokenizer, "tokens")
        text = await service.pool.of(request, partial(service.encoder.text_of, tokens))
        body = msgspec.json.encode({"content": text, "prompt": text})
        return Response(body, media_type="application/json")

    async def hidden_states(self, request: Request) -> Response:
        """POST /v1/hidden_states"""
        service = self.service
        tokens, layer, claim = await self._read(request)
        body_is_read(request)
        try:
            rows = await while_connected(request, self.hidden.rows(tokens, layer, claim))
        except ClientGone:
            return Response(status_code=CLIENT_GONE)
        named = {"model": service.model, "layer": str(layer)}
        body = await service.pool.of(request, partial(save, {"hidden_states": rows, "tokens": tokens}, named))
        return Response(body, media_type="application/octet-stream")

    async def _read(self, request: Request) -> tuple[Ids, int, Claim]:
        """What is wanted of which tokens: their rows behind this layer."""
        asked = parse(await body_of(request), HiddenStatesRequest)
        self.service.check_model(asked.model)
        self._check_layer(asked.layer)
        tokens = await self._prompt(request, asked)
        return tokens, asked.layer, self.service.claim(request, asked.priority)

    def _check_layer(self, layer: int) -> None:
        last = self.hidden.layers - 1
        if not 0 <= layer < last:
            message = f"layer must lie between 0 and {last - 1}, not {layer}: the model's last layer gives no rows."
            raise RequestError(message, param="layer")

    async def _prompt(self, request: Request, asked: HiddenStatesRequest) -> Ids:
        param = "prompt" if asked.tokens is None else "tokens"
        try:
            tokens = await self.service.tokens_of(request, asked.given, param)
        except TooManyTokens as error:
            raise self._too_long(error.count, param) from error
        if len(tokens) > self.service.context:
            raise self._too_long(len(tokens), param)
        return np.array(tokens, np.int32)

    def _too_long(self, tokens: int, param: str) -> RequestError:
        message = f"The prompt has {tokens} tokens, more than the context of {self.service.context}."
        return RequestError(message, param=param, code="context_length_exceeded")
