"""The endpoints that OpenAI's API lacks: the tokens of a text, the text of tokens, and hidden rows."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import numpy as np
from safetensors.numpy import save
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from potluck.coordinator.generation.hidden_states import HiddenStates
from potluck.coordinator.http.inbound import CLIENT_GONE, ClientGone, body_of, while_connected
from potluck.coordinator.http.openai import Service, checked_tokens, text_of
from potluck.coordinator.http.parsing import parse
from potluck.coordinator.http.requests import DetokenizeRequest, HiddenStatesRequest, TokenizeRequest
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
        asked = parse(await body_of(request), TokenizeRequest)
        return JSONResponse({"tokens": await asyncio.to_thread(self._tokens, asked)})

    def _tokens(self, asked: TokenizeRequest) -> list[Any]:
        text, begins = asked.given
        tokens = self.service.tokenizer.encode(text, special=True, bos=begins)
        return [self._piece(token) for token in tokens] if asked.with_pieces else tokens

    def _piece(self, token: int) -> dict[str, Any]:
        piece = self.service.tokenizer.piece(token, special=True)
        try:
            return {"id": token, "piece": piece.decode()}
        except UnicodeDecodeError:
            return {"id": token, "piece": list(piece)}

    async def detokenize(self, request: Request) -> Response:
        """POST /detokenize"""
        asked = parse(await body_of(request), DetokenizeRequest)
        text = await asyncio.to_thread(self._text, asked.tokens)
        return JSONResponse({"content": text, "prompt": text})

    def _text(self, tokens: list[int]) -> str:
        return text_of(checked_tokens(tokens, self.service.tokenizer, "tokens"), self.service.tokenizer)

    async def hidden_states(self, request: Request) -> Response:
        """POST /v1/hidden_states"""
        asked, service = parse(await body_of(request), HiddenStatesRequest), self.service
        service.check_model(asked.model)
        self._check_layer(asked.layer)
        tokens = await self._prompt(asked)
        claim = service.claim(request, asked.priority)
        try:
            rows = await while_connected(request, self.hidden.rows(tokens, asked.layer, claim))
        except ClientGone:
            return Response(status_code=CLIENT_GONE)
        named = {"model": service.model, "layer": str(asked.layer)}
        body = await asyncio.to_thread(save, {"hidden_states": rows, "tokens": tokens}, named)
        return Response(body, media_type="application/octet-stream")

    def _check_layer(self, layer: int) -> None:
        last = self.hidden.layers - 1
        if not 0 <= layer < last:
            message = f"layer must lie between 0 and {last - 1}, not {layer}: the model's last layer gives no rows."
            raise RequestError(message, param="layer")

    async def _prompt(self, asked: HiddenStatesRequest) -> Ids:
        param = "prompt" if asked.tokens is None else "tokens"
        tokens = await self.service.tokens_of(asked.given, param)
        if len(tokens) > self.service.context:
            message = f"The prompt has {len(tokens)} tokens, more than the context of {self.service.context}."
            raise RequestError(message, param=param, code="context_length_exceeded")
        return np.array(tokens, np.int32)
