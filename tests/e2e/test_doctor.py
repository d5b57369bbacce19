"""`potluck doctor` beside real coordinators."""

from __future__ import annotations

import json
from pathlib import Path

from kit.processes import LOCAL, potluck
from potluck import __version__
from potluck.local import LocalSwarm


def findings(*arguments: str) -> dict[str, dict[str, str]]:
    told = json.loads(potluck("doctor", "--json", *arguments).stdout)
    return {finding["subject"]: finding for finding in told["findings"]}


def test_a_coordinator_of_this_machine_is_in_order(tiny: Path) -> None:
    with LocalSwarm(tiny, [], serve=LOCAL) as swarm:
        found = findings(swarm.url)
    assert found["coordinator"]["says"].startswith(f"{swarm.url} answers after ")
    assert found["versions"]["says"] == f"Both ends run Potluck {__version__}."
    assert found["clock"]["level"] == "ok"


def test_a_private_coordinator_tells_its_version_to_those_who_have_a_key(tiny: Path) -> None:
    with LocalSwarm(tiny, [], serve=["--host", "127.0.0.1"]) as swarm:
        assert findings(swarm.url)["versions"]["level"] == "ok"  # by the owner's key, which is on this machine
        assert findings(swarm.url, "--key", "pk-wrong")["versions"]["level"] == "note"
