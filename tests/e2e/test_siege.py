"""A real coordinator under attack by `benchmarks/attacker.py`: others are served, and memory does not grow.

How quickly they are served is measured by `benchmarks/siege.py`, because it depends on the machine.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import psutil
import pytest

from kit.processes import LOCAL, ONE_THREAD, PYTHON
from potluck.local import HANG_S, LocalSwarm, Process
from potluck.types import Span

ATTACKER = Path(__file__).parents[2] / "benchmarks" / "attacker.py"
ATTACKS = ("tokens", "heads", "pings", "requests", "halves", "sockets", "schemas", "objects")
MOST_GROWTH = 64 << 20
DESCRIPTORS = 300


@pytest.fixture(scope="module")
def swarm(tiny: Path) -> Iterator[LocalSwarm]:
    with LocalSwarm(tiny, [Span(0, 5)], serve=LOCAL, join=ONE_THREAD) as swarm:
        swarm.wait_covered()
        yield swarm


@contextmanager
def attacked(url: str, attacks: str, model: str, seconds: float) -> Iterator[subprocess.Popen[str]]:
    """While the block runs, an attacker does until its seconds are over."""
    place = urlsplit(url)
    arguments = [attacks, place.hostname, place.port, "", model, seconds]
    with subprocess.Popen(
        [*PYTHON, str(ATTACKER), *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as attacker:
        try:
            yield attacker
        finally:
            attacker.kill()


def answer(swarm: LocalSwarm) -> str:
    body = {"model": swarm.status()["model"], "prompt": "Once upon a time", "max_tokens": 32, "temperature": 0}
    reply = httpx.post(f"{swarm.url}/v1/completions", json={**body, "ignore_eos": True}, timeout=HANG_S)
    reply.raise_for_status()
    return str(reply.json()["choices"][0]["text"])


@pytest.mark.parametrize("attack", [*ATTACKS, ",".join(ATTACKS)])
def test_others_are_answered_and_memory_does_not_grow(swarm: LocalSwarm, attack: str, nightly: bool) -> None:
    expected, process = answer(swarm), psutil.Process(swarm.coordinator.popen.pid)
    before, most = process.memory_info().rss, 0
    with attacked(swarm.url, attack, swarm.status()["model"], 30 if nightly else 2) as attacker:
        while attacker.poll() is None:
            assert answer(swarm) == expected
            most = max(most, process.memory_info().rss)
        told, errors = attacker.communicate()
    assert attacker.returncode == 0, errors
    assert json.loads(told)["dials"] > 0
    assert most - before <= MOST_GROWTH
    assert swarm.status()["nodes"][0]["state"] == "ready"  # nobody was blamed


@pytest.mark.skipif(sys.platform != "linux", reason="Only Linux limits the descriptors of another process.")
def test_a_coordinator_with_few_descriptors_stays_reachable(tiny: Path) -> None:
    import resource

    with Process(["serve", str(tiny), "--port", "0", *LOCAL]) as coordinator:
        resource.prlimit(coordinator.popen.pid, resource.RLIMIT_NOFILE, (DESCRIPTORS, DESCRIPTORS))
        url = coordinator.wait_for("Serving ").split(" at ")[1].split(" ")[0]
        most = 0
        with attacked(url, "halves", "tiny", 8) as attacker:
            while attacker.poll() is None:
                assert httpx.get(f"{url}/status", timeout=HANG_S).status_code == 200
                most = max(most, psutil.Process(coordinator.popen.pid).num_fds())
        assert DESCRIPTORS / 4 < most < DESCRIPTORS
        coordinator.wait_for("gave way to others")
