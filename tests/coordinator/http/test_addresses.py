"""What is told to clients whose base URL is not the right one."""

import pytest

from potluck.coordinator.http.addresses import Nowhere, without_slashes
from potluck.coordinator.http.routes import ENDPOINTS

NOWHERE = Nowhere(ENDPOINTS)


@pytest.mark.parametrize(
    ("path", "meant"),
    [
        ("/chat/completions", "/v1/chat/completions"),
        ("/models", "/v1/models"),
        ("/models/owner/name", "/v1/models/owner/name"),
        ("/v1/v1/chat/completions", "/v1/chat/completions"),
        ("/v1/v1/v1/models", "/v1/models"),
        ("/api/v1/chat/completions", "/v1/chat/completions"),
        ("/v1/chat/completions/v1/completions", "/v1/completions"),
        ("/messages", "/v1/messages"),
        ("/anthropic/v1/messages/count_tokens", "/v1/messages/count_tokens"),
        ("/v1/status", "/status"),
        ("/v1/files/a/b", "/files/a/b"),
        ("/v1", ""),
        ("/chat", ""),
        ("/v1/chat/completion", ""),
        ("/models/" + "x" * 5000, ""),
    ],
)
def test_the_address_that_was_meant(path: str, meant: str) -> None:
    assert NOWHERE.meant_by(path) == meant


@pytest.mark.parametrize(
    ("path", "without"),
    [
        ("/", "/"),
        ("//", "/"),
        ("/v1/models/", "/v1/models"),
        ("//v1//chat/completions", "/v1/chat/completions"),
        ("/v1/models/owner/name", "/v1/models/owner/name"),
        ("/.././/x", "/.././x"),
    ],
)
def test_slashes_that_say_nothing(path: str, without: str) -> None:
    assert without_slashes(path) == without
