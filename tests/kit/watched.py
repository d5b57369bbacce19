"""Served models for the tests of what is told of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import msgspec

from potluck.coordinator.audits.audits import no_audits
from potluck.coordinator.relay.trace import Trace
from potluck.coordinator.swarm.swarm import Swarm
from potluck.coordinator.watching.status import swarm_status
from potluck.coordinator.watching.watched import Watched


def watched(swarm: Swarm, name: str = "toy", **others: Any) -> Watched:
    """A model on this swarm, where nobody waits and nothing was audited or traced, as far as nothing else is said."""

    def status(may_see: Callable[[str], bool]) -> bytes:
        return msgspec.json.encode(swarm_status(swarm, name, "d", 64, no_audits(), 0, may_see=may_see))

    usual = {"status": status, "audits": no_audits(), "waiting": Counter, "hops": Trace()}
    return Watched(names=(name,), swarm=swarm, **{**usual, **others})
