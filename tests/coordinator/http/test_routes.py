"""The table of endpoints, and who may ask for what it holds."""

from collections import Counter

import pytest

from potluck.coordinator.http.endpoint import Access
from potluck.coordinator.http.routes import ENDPOINTS, access_of

ACCESS = {
    Access.PUBLIC: {"/", "/web/{name}", "/health"},
    Access.WEIGHTS: {"/manifest", "/files/{name}"},
    Access.KEY: {"/v1/account"},
    Access.ADMIN: {
        "/v1/admin/invites",
        "/v1/admin/invites/{id}",
        "/v1/admin/keys",
        "/v1/admin/keys/{id}",
        "/v1/admin/nodes",
        "/v1/admin/nodes/{key}",
    },
    Access.ANY: {
        "/openapi.json",
        "/status",
        "/status/events",
        "/metrics",
        "/trace",
        "/fleet",
        "/v1/models",
        "/v1/models/{model}",
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/embeddings",
        "/v1/responses",
        "/v1/responses/{id}",
        "/v1/messages",
        "/v1/messages/count_tokens",
        "/tokenizer_info",
        "/tokenize",
        "/detokenize",
        "/v1/hidden_states",
    },
}


def test_every_endpoint_is_open_to_those_to_whom_it_should_be() -> None:
    found = {access: {endpoint.path for endpoint in ENDPOINTS if endpoint.access is access} for access in Access}
    assert found == ACCESS


def test_all_methods_of_a_path_are_open_to_the_same_callers() -> None:
    for endpoint in ENDPOINTS:
        assert access_of(endpoint.path) is endpoint.access


def test_every_endpoint_is_declared_once() -> None:
    assert set(Counter(endpoint.name for endpoint in ENDPOINTS).values()) == {1}


@pytest.mark.parametrize(
    ("path", "access"),
    [
        ("/node", Access.PUBLIC),
        ("/web/app.js", Access.PUBLIC),
        ("/web/", Access.ANY),
        ("/web/a/b", Access.ANY),
        ("/files/a/b.safetensors", Access.WEIGHTS),
        ("/v1/models/a/b", Access.ANY),
        ("/v1/admin/nodes/00", Access.ADMIN),
        ("/v1/admin/nodes/", Access.ADMIN),
        ("/v1/admin/no/such/thing", Access.ADMIN),
        ("/healthy", Access.ANY),
        ("/health/", Access.ANY),
        ("/nowhere", Access.ANY),
        ("", Access.ANY),
    ],
)
def test_who_may_ask_for_a_path(path: str, access: Access) -> None:
    assert access_of(path) is access
