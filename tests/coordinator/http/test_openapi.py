import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.routing import Route

from kit.newcomer import COORDINATOR
from kit.tiny_gguf import write_tiny_gguf
from potluck.coordinator.app import ModelConfig, ServeConfig, make_app
from potluck.coordinator.http.answers import ChatChunk, ChatCompletion, Completion
from potluck.coordinator.http.office import open_office
from potluck.coordinator.http.openapi import describe
from potluck.coordinator.http.routes import ENDPOINTS
from potluck.coordinator.members.store import open_store
from potluck.models.sources import find_model, open_model
from potluck.types import Audience

DOCUMENT = describe(ENDPOINTS)
EVENTS = "/status/events"


@pytest.fixture
def app(tmp_path: Path) -> Iterator[Starlette]:
    path = write_tiny_gguf(tmp_path / "tiny.gguf", tokenizer="bpe")
    store = open_store(f"sqlite:///{tmp_path}/potluck.db")
    office = open_office(store, Audience.PRIVATE, COORDINATOR, "http://127.0.0.1:8470")
    yield make_app(ServeConfig(models=(ModelConfig(find_model(str(path))),)), [open_model(path)], office)
    store.close()


def test_every_route_is_described_and_nothing_else(app: Starlette) -> None:
    routes = {
        (re.sub(r":\w+}", "}", route.path), method.lower())
        for route in app.routes
        if isinstance(route, Route)
        for method in route.methods or ()
        if method != "HEAD"
    }
    described = {(path, method) for path, methods in DOCUMENT["paths"].items() for method in methods}
    assert described == routes
    assert ("/v1/chat/completions", "post") in described


def test_every_parameter_of_a_path_is_described() -> None:
    for path, methods in DOCUMENT["paths"].items():
        for operation in methods.values():
            named = {one["name"] for one in operation.get("parameters", ()) if one["in"] == "path"}
            assert named == set(re.findall(r"{(\w+)}", path))


def test_every_reference_leads_somewhere() -> None:
    names = re.findall(r'"\$ref": "#/components/schemas/(\w+)"', json.dumps(DOCUMENT))
    assert set(names) == DOCUMENT["components"]["schemas"].keys()
    assert {ChatCompletion.__name__, ChatChunk.__name__, Completion.__name__, "Error", "Status"} <= set(names)


def field(schema: str, name: str) -> dict[str, Any]:
    return DOCUMENT["components"]["schemas"][schema]["properties"][name]


def test_bounds_are_told_and_null_may_stand_for_what_is_not_given() -> None:
    [written, _] = field("ChatRequest", "temperature")["anyOf"]
    [temperature, text] = written["anyOf"]
    assert (text["type"], re.search(text["pattern"], "0.7") is not None) == ("string", True)
    assert temperature["minimum"] == 0
    for name in ("temperature", "stream", "min_tokens"):
        assert {"type": "null"} in field("ChatRequest", name)["anyOf"]
    assert {"type": "string", "default": ""} in field("ChatRequest", "model")["anyOf"]
    assert field("Model", "id") == {"type": "string"}


def test_the_status_has_two_shapes_one_of_them_for_several_models() -> None:
    def shapes(*names: str) -> dict[str, Any]:
        return {"anyOf": [{"$ref": f"#/components/schemas/{name}"} for name in names]}

    told, events = (DOCUMENT["paths"][path]["get"]["responses"]["200"]["content"] for path in ("/status", EVENTS))
    assert told["application/json"]["schema"] == shapes("Status", "Statuses")
    data = events["text/event-stream"]["schema"]["properties"]["data"]
    assert data["contentSchema"] == shapes("StatusEvent", "StatusesEvent")
    assert field("Statuses", "models")["items"] == {"$ref": "#/components/schemas/Status"}
