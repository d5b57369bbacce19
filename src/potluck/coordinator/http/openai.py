"""OpenAI's own endpoints: the models, chats, and texts to continue."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from potluck.coordinator.fleet.records import ModelRecord
from potluck.coordinator.http.habits import REFUSED_FOR_COMPLETIONS, refuse_unsupported
from potluck.coordinator.http.inbound import body_of, check_size
from potluck.coordinator.http.models import Models
from potluck.coordinator.http.parsing import parse
from potluck.coordinator.http.replies import Json
from potluck.coordinator.http.requests import ChatRequest, CompletionRequest
from potluck.coordinator.http.service import Read, Service
from potluck.coordinator.sessions.demand import ModelState

R = TypeVar("R", ChatRequest, CompletionRequest)
Refuse = Callable[[Mapping[str, msgspec.Raw]], None]

_refuse_for_completions = partial(refuse_unsupported, refused=REFUSED_FOR_COMPLETIONS)


@dataclass(frozen=True)
class OpenAI:
    """The endpoints, for the models that are served."""

    served: Models

    async def models(self, request: Request) -> Response:
        """GET /v1/models"""
        here = [(name, each.created, each.state()) for each in self.served.open_to(request) for name in each.names]
        there = [
            (name, int(since), _state(model)) for model, since in self.served.elsewhere(request) for name in model.names
        ]
        data = [_described(*each) for each in (*here, *there)]
        return JSONResponse({"object": "list", "data": data})

    async def one_model(self, request: Request) -> Response:
        """GET /v1/models/{model}"""
        name = request.path_params["model"]
        found = self.served.find(request, name)
        return JSONResponse(_described(name, found.created, found.state()))

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


def _described(name: str, created: int, state: ModelState) -> Json:
    return {"id": name, "object": "model", "created": created, "owned_by": "potluck", "state": state}


def _state(model: ModelRecord) -> ModelState:
    """The state of a model at another coordinator."""
    if model.covered:
        return ModelState.READY
    return ModelState.LOADING if model.loading else ModelState.INCOMPLETE
