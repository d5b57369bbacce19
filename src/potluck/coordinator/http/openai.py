"""OpenAI's own endpoints: the models, chats, and texts to continue."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from potluck.coordinator.http.habits import REFUSED_FOR_COMPLETIONS, refuse_unsupported
from potluck.coordinator.http.inbound import body_of, check_size
from potluck.coordinator.http.models import Models
from potluck.coordinator.http.parsing import parse
from potluck.coordinator.http.replies import Json
from potluck.coordinator.http.requests import ChatRequest, CompletionRequest
from potluck.coordinator.http.service import Read, Service

R = TypeVar("R", ChatRequest, CompletionRequest)
Refuse = Callable[[Mapping[str, msgspec.Raw]], None]

_refuse_for_completions = partial(refuse_unsupported, refused=REFUSED_FOR_COMPLETIONS)


@dataclass(frozen=True)
class OpenAI:
    """The endpoints, for the models that are served."""

    served: Models

    async def models(self, request: Request) -> Response:
        """GET /v1/models"""
        models: list[tuple[tuple[str, ...], int, str]]
        models = [(each.names, each.created, self.served.state_of(each)) for each in self.served.open_to(request)]
        models += [(model.names, int(since), model.state) for model, since in self.served.elsewhere(request)]
        data = [_described(name, created, state) for names, created, state in models for name in names]
        return JSONResponse({"object": "list", "data": data})

    async def one_model(self, request: Request) -> Response:
        """GET /v1/models/{model}"""
        name = request.path_params["model"]
        found = self.served.find(request, name)
        return JSONResponse(_described(name, found.created, self.served.state_of(found)))

    async def chat(self, request: Request) -> Response:
        """POST /v1/chat/completions"""
        service, read = await self._read_chat(request)
        return await service.answer(request, read)

    async def complete(self, request: Request) -> Response:
        """POST /v1/completions"""
        service, read = await self._read_completion(request)
        return await service.answer(request, read)

    async def _read_chat(self, request: Request) -> tuple[Service, Read]:
        service, asked = await self._parsed(request, ChatRequest, refuse_unsupported)
        return service, await service.read_chat(request, asked)

    async def _read_completion(self, request: Request) -> tuple[Service, Read]:
        service, asked = await self._parsed(request, CompletionRequest, _refuse_for_completions)
        return service, await service.read_completion(request, asked)

    async def _parsed(self, request: Request, kind: type[R], refuse: Refuse) -> tuple[Service, R]:
        """The request, and the model that it means. Its body, which may be long, is gone while the prompt is made."""
        body = await body_of(request, self.served.context)
        asked = parse(body, kind, refuse)
        service = await self.served.of(request, asked.model)
        check_size(body, service.context)
        return service, asked


def _described(name: str, created: int, state: str) -> Json:
    return {"id": name, "object": "model", "created": created, "owned_by": "potluck", "state": state}
