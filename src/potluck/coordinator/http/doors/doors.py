"""The endpoints of the other doors: each request becomes one for a chat, and the chat's answer is told in its words."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import TypeVar

import msgspec
from msgspec import Struct
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from potluck.coordinator.http.doors.history import History, Json
from potluck.coordinator.http.doors.messages_answer import MessageTeller
from potluck.coordinator.http.doors.messages_request import CountRequest, MessagesRequest
from potluck.coordinator.http.doors.refused import OF_MESSAGES, OF_RESPONSES, refuse
from potluck.coordinator.http.doors.responses_answer import ResponseTeller
from potluck.coordinator.http.doors.responses_request import ResponsesRequest, add_items
from potluck.coordinator.http.doors.shelf import Kept, Shelf
from potluck.coordinator.http.habits import REFUSED_AT_DOORS, refuse_unsupported
from potluck.coordinator.http.inbound import body_of
from potluck.coordinator.http.keeping import keeping_of
from potluck.coordinator.http.models import Models
from potluck.coordinator.http.parsing import parse
from potluck.coordinator.http.pool import asker_of
from potluck.coordinator.http.requests import ChatRequest
from potluck.coordinator.http.rota import Asker
from potluck.coordinator.http.service import Read, Service
from potluck.errors import RequestError

R = TypeVar("R", bound=Struct)

_OF_MESSAGES = {
    "messages": "messages",  # without the place, which the system prompt moves
    "reasoning_effort": "output_config",
    "response_format": "output_config",
    "stop": "stop_sequences",
}
_OF_RESPONSES = {
    "max_completion_tokens": "max_output_tokens",
    "messages": "input",
    "response_format": "text",
}
"""The fields of a request, by those of the chat that are made of them."""

Fields = Mapping[str, msgspec.Raw]

_CHATS = frozenset(ChatRequest.__struct_fields__) - {"messages", "stream_options", "return_progress"}
"""The fields of chats that both doors take as well, such as those of vLLM and of llama.cpp's server."""


class Doors:
    """Answers requests in the form of OpenAI's responses and of Anthropic's messages.

    served: answer chats. clock: seconds, for how long responses are kept.
    """

    def __init__(self, served: Models, clock: Callable[[], float] = time.monotonic) -> None:
        self._served = served
        self._clock = clock
        self._shelves = {False: Shelf(), True: Shelf()}
        """The responses of accounts, and those of strangers, who must not crowd them out."""

    async def message(self, request: Request) -> Response:
        """POST /v1/messages"""
        service, read = await self._read_message(request)
        return await service.answer(request, read)

    async def count_tokens(self, request: Request) -> Response:
        """POST /v1/messages/count_tokens"""
        asked, more = await self._parsed(request, CountRequest, OF_MESSAGES)
        chat = await self._served.pool.of(request, partial(_chat_of, asked.chat, more, _OF_MESSAGES))
        with _renamed(_OF_MESSAGES):
            service = await self._served.of(request, chat.model)
            count = await service.count(request, chat)
        return JSONResponse({"input_tokens": count})

    async def response(self, request: Request) -> Response:
        """POST /v1/responses"""
        service, read = await self._read_response(request)
        return await service.answer(request, read)

    async def kept_response(self, request: Request) -> Response:
        """GET /v1/responses/{id}"""
        kept = self._kept(request, request.path_params["id"], "id")
        return Response(kept.response, media_type="application/json")

    async def delete_response(self, request: Request) -> Response:
        """DELETE /v1/responses/{id}"""
        asker, identity = asker_of(request), request.path_params["id"]
        if not self._shelves[asker.stranger].take(asker, identity):
            self._served.seek(request)
            raise _unknown(identity, "id")
        return JSONResponse({"id": identity, "object": "response", "deleted": True})

    async def _parsed(self, request: Request, kind: type[R], refused: Mapping[str, str]) -> tuple[R, Fields]:
        """The request, and those of its fields that only chats have."""
        more: dict[str, msgspec.Raw] = {}

        def look(fields: Fields) -> None:
            refuse(refused, fields)
            others = {name: value for name, value in fields.items() if name not in kind.__struct_fields__}
            refuse_unsupported(others, REFUSED_AT_DOORS)
            more.update((name, value) for name, value in others.items() if name in _CHATS)

        return parse(await body_of(request, self._served.context), kind, look), more

    async def _read_message(self, request: Request) -> tuple[Service, Read]:
        asked, more = await self._parsed(request, MessagesRequest, OF_MESSAGES)
        chat = await self._served.pool.of(request, partial(_chat_of, asked.chat, more, _OF_MESSAGES))
        with _renamed(_OF_MESSAGES):
            service = await self._served.of(request, chat.model)
            read = await service.read_chat(request, chat)
        door = MessageTeller(service.model, asked.stop_sequences or (), read.usage, read.identities)
        return service, read._replace(door=door)

    async def _read_response(self, request: Request) -> tuple[Service, Read]:
        (asked, more), asker = await self._parsed(request, ResponsesRequest, OF_RESPONSES), asker_of(request)
        previous = asked.previous_response_id
        before = self._before(request, previous) if previous else None
        messages, chat = await self._served.pool.of(request, partial(_next_chat, before, asked, more))
        keep = partial(self._keep, asker, messages) if asked.store else _forget
        with _renamed(_OF_RESPONSES):
            service = await self._served.of(request, chat.model)
            read = await service.read_chat(request, chat)
        door = ResponseTeller(service.model, asked.echo(), read.usage, read.identities, keep, asked.spaces)
        return service, read._replace(door=door)

    def _before(self, request: Request, identity: str) -> Kept:
        """The response before that of the request. Where an answer goes on, it may be kept by another coordinator."""
        keeping = keeping_of(request)
        if keeping is not None and (told := keeping.followed) is not None:
            return Kept(*told)
        kept = self._kept(request, identity, "previous_response_id")
        if keeping is not None:
            keeping.before = kept
        return kept

    def _kept(self, request: Request, identity: str, param: str) -> Kept:
        """The response with this id, which another coordinator of the fleet may keep. Raises Elsewhere, or RequestError
        if nobody does.
        """
        asker = asker_of(request)
        kept = self._shelves[asker.stranger].get(asker, identity, self._clock())
        if kept is None:
            self._served.seek(request)
            raise _unknown(identity, param)
        return kept

    def _keep(self, asker: Asker, messages: bytes, response: Json) -> bool:
        kept = Kept(msgspec.json.encode(response), messages)
        return self._shelves[asker.stranger].put(asker, response["id"], kept, self._clock())


def _forget(_: Json) -> bool:
    """Keep nothing of a response that is not to be stored."""
    return False


def _unknown(identity: str, param: str) -> RequestError:
    return RequestError(f"No response {identity!r} of yours is kept here.", status=404, param=param)


def _next_chat(before: Kept | None, asked: ResponsesRequest, more: Fields) -> tuple[bytes, ChatRequest]:
    """The messages that are to be answered, as JSON, and the request for a chat. before: the response before it."""
    history = History()
    if before is not None:
        history.extend(msgspec.json.decode(before.messages))
        add_items(history, msgspec.json.decode(before.response)["output"], "output")
    messages = asked.history(history.messages).messages
    return msgspec.json.encode(messages), _chat_of(partial(asked.chat, messages), more, _OF_RESPONSES)


def _chat_of(chat: Callable[[], Json], more: Fields, names: Mapping[str, str]) -> ChatRequest:
    """The request for a chat, from its JSON. more: further fields of it, as the client wrote them."""
    body = msgspec.json.encode({**more, **chat()})
    with _renamed(names):
        return parse(body, ChatRequest)


@contextmanager
def _renamed(names: Mapping[str, str]) -> Iterator[None]:
    """Tells what is wrong with a chat in the words of the client: names, by the chat's fields."""
    try:
        yield
    except RequestError as error:
        param = error.param or ""
        name = names.get(re.split(r"[.\[]", param)[0])
        if name is None:
            raise
        message = str(error)
        told = name + message.removeprefix(param) if message.startswith(param) else message
        renamed = RequestError(told, status=error.status, param=name, code=error.code, retry_s=error.retry_s)
        raise renamed from error
