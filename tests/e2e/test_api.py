"""What the API's description allows, and what it does not: no fault of ours, and no answer it does not tell."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, settings

from kit.processes import LOCAL, ONE_THREAD
from potluck.coordinator.http.openapi import describe
from potluck.coordinator.http.routes import ENDPOINTS
from potluck.local import HANG_S, LocalSwarm
from potluck.types import even_spans

API = schemathesis.openapi.from_dict(describe(ENDPOINTS)).exclude(path="/status/events")  # it has no end


@pytest.fixture(scope="module")
def short_swarm(tiny: Path) -> Iterator[LocalSwarm]:
    """The tiny model with a short context, so that every answer ends soon."""
    with LocalSwarm(tiny, even_spans(6, 2), serve=[*LOCAL, "--context", "64"], join=ONE_THREAD) as swarm:
        swarm.wait_covered()
        yield swarm


def test_the_description_is_served(short_swarm: LocalSwarm) -> None:
    assert httpx.get(f"{short_swarm.url}/openapi.json", timeout=HANG_S).json() == describe(ENDPOINTS)


@API.parametrize()
@settings(max_examples=40, derandomize=True, suppress_health_check=list(HealthCheck))
def test_every_operation_keeps_to_its_description(case: schemathesis.Case, short_swarm: LocalSwarm, tiny: Path) -> None:
    body, unknowable = case.body, []
    if case.method == "POST":
        # What is beyond a schema: whether prompt and answer fit the context, whether two fields go together.
        unknowable = [schemathesis.checks.positive_data_acceptance]
        if isinstance(body, dict) and isinstance(body.get("model"), str):
            body["model"] = tiny.stem
    case.call_and_validate(base_url=short_swarm.url, excluded_checks=unknowable, timeout=HANG_S)
