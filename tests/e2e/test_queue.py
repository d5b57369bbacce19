"""Whose turn it is, in a swarm of three nodes: who waits for an answer stands behind no batch requests."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx

from kit.runner import run
from potluck.local import HANG_S, LocalSwarm

BATCHES, RUNNING = 100, 7
"""Nodes hold eight sessions of full length, and one must find room beside those of batch requests."""
STAGES = 3

Json = dict[str, Any]


async def batch(http: httpx.AsyncClient, number: int) -> None:
    """A long answer that is read until the task is cancelled."""
    body = {"model": "tiny", "prompt": f"{number} times", "max_tokens": 4000, "ignore_eos": True}
    async with http.stream("POST", "/v1/completions", json={**body, "priority": "batch", "stream": True}) as reply:
        async for _ in reply.aiter_bytes():
            pass


async def waiting(swarm: LocalSwarm, count: int) -> Json:
    """The first status in which so many wait."""
    return await asyncio.to_thread(swarm.wait_until, lambda status: status["waiting"] == count)


async def steps(http: httpx.AsyncClient, after: int) -> list[Json]:
    """All steps that have ended since then, in the order in which they began."""
    timeline = (await http.get("/trace", params={"after": after})).json()
    events = [event for event in timeline["traceEvents"] if event["ph"] == "X" and event["pid"] == 1]
    return sorted(events, key=lambda event: event["ts"])


def test_an_interactive_request_behind_a_hundred_batch_requests_starts_at_once(tiny_swarm):
    """No batch request that waited has started, and its first token is there within a step round of those that run."""

    async def test() -> None:
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(base_url=tiny_swarm.url, timeout=HANG_S, limits=limits) as http:
            before = (await http.get("/trace")).json()["count"]
            batches = [asyncio.create_task(batch(http, number)) for number in range(BATCHES)]
            status = await waiting(tiny_swarm, BATCHES - RUNNING)
            body = {"model": "tiny", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4}
            reply = await http.post("/v1/chat/completions", json=body)
            assert reply.json()["usage"]["completion_tokens"] > 0
            assert len(status["queue"]) == BATCHES - RUNNING
            assert status["queue"][1]["reason"].startswith(
                "batch, account owner, weight 1.0: 1 of its requests and 0 of others"
            )
            ran = await steps(http, before)
            sessions = sorted({event["args"]["session"] for event in ran})
            assert len(sessions) == RUNNING + 1
            first = next(event for event in ran if event["args"]["session"] == sessions[-1])
            meanwhile = [event for event in ran if first["ts"] <= event["ts"] < first["ts"] + first["dur"]]
            # At each stage its prompt waits for the batch under way, and then it is its turn.
            assert len(meanwhile) - 1 <= STAGES * RUNNING, "More than a batch a stage came before it."
            for task in batches:
                task.cancel()
            await asyncio.gather(*batches, return_exceptions=True)
            await waiting(tiny_swarm, 0)

    run(test())
