"""What OpenAI's API cannot say: the tokens of a text, and the text of tokens."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from potluck.coordinator.openai import Service, body_of, checked_tokens, text_of
from potluck.coordinator.requests import DetokenizeRequest, TokenizeRequest, parse


@dataclass(frozen=True)
class Research:
    """Of the model that the service serves."""

    service: Service

    def routes(self) -> list[Route]:
        return [
            Route("/tokenize", self.tokenize, methods=["POST"]),
            Route("/detokenize", self.detokenize, methods=["POST"]),
        ]

    async def tokenize(self, request: Request) -> Response:
        """POST /tokenize"""
        asked = parse(await body_of(request), TokenizeRequest)
        encode = self.service.tokenizer.encode
        tokens = await asyncio.to_thread(encode, asked.content, special=True, bos=asked.add_special)
        return JSONResponse({"tokens": [self._piece(token) for token in tokens] if asked.with_pieces else tokens})

    def _piece(self, token: int) -> dict[str, Any]:
        piece = self.service.tokenizer.piece(token, special=True)
        try:
            return {"id": token, "piece": piece.decode()}
        except UnicodeDecodeError:
            return {"id": token, "piece": list(piece)}

    async def detokenize(self, request: Request) -> Response:
        """POST /detokenize"""
        asked = parse(await body_of(request), DetokenizeRequest)
        tokens = checked_tokens(asked.tokens, self.service.tokenizer, "tokens")
        return JSONResponse({"content": text_of(tokens, self.service.tokenizer)})
