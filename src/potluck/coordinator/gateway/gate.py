"""The way into one model's swarm: admits nodes to it, and hands over what they say."""

from __future__ import annotations

from collections.abc import Iterable

from potluck.coordinator.gateway.driver import Driver
from potluck.coordinator.gateway.frames import Frames
from potluck.coordinator.gateway.guessing import Guessers
from potluck.coordinator.gateway.lookout import Lookout
from potluck.coordinator.gateway.welcomes import Welcomes
from potluck.coordinator.relay.relay import Relay
from potluck.coordinator.sessions.demand import Demand, ModelState
from potluck.coordinator.sessions.line import Line
from potluck.coordinator.swarm.events import Joined, Left
from potluck.coordinator.swarm.node import called
from potluck.coordinator.swarm.swarm import Swarm
from potluck.types import EngineKind, NodeState, Prospect


class Gate:
    """The gate of one swarm. names: the model's, the one that is said first. engine: the one that its nodes run.

    guessers: None if the model takes no guesses. demand: that for the model. line: its requests.
    """

    def __init__(
        self,
        names: tuple[str, ...],
        engine: EngineKind,
        swarm: Swarm,
        relay: Relay,
        driver: Driver,
        welcomes: Welcomes,
        lookout: Lookout,
        frames: Frames,
        guessers: Guessers | None,
        demand: Demand,
        line: Line,
    ) -> None:
        self.names = names
        self.engine = engine
        self.swarm = swarm
        self.driver = driver
        self.welcomes = welcomes
        self.guessers = guessers
        self.demand = demand
        self._line = line
        self._relay = relay
        self._lookout = lookout
        self._frames = frames

    @property
    def name(self) -> str:
        return self.names[0]

    def identify(self, digest: str, guessers: Guessers | None) -> None:
        """Note what is known of an offered model once it is asked for. guessers: None if it takes no guesses."""
        self.swarm.digest, self.guessers, self.demand.asked = digest, guessers, True
        self.welcomes.identify(digest)

    @property
    def lacks(self) -> bool:
        """Whether nodes should come, because layers lack that are to be served at all times or that requests await."""
        return bool(self.swarm.missing()) and (self.demand.always or self._line.waiting > 0)

    @property
    def waiting(self) -> int:
        """The number of the requests that wait."""
        return self._line.waiting

    @property
    def state(self) -> ModelState:
        loading = any(node.state is NodeState.LOADING for node in self.swarm.nodes.values())
        return self.demand.state(missing=bool(self.swarm.missing()), loading=loading, waiting=self.waiting > 0)

    def look(self, now: float) -> None:
        """Note whether the model is in use."""
        covered = not self.swarm.missing()
        waits = self._line.waiting > 0 and (covered or not self.demand.fault)
        self.demand.look(now, busy=waits or self.swarm.kv_budget.streams > 0, covered=covered)

    def tell(self, fault: str) -> None:
        """Tell the requests that wait whether nodes can load what lacks. fault: why not, or empty."""
        self.demand.fault = fault
        self._line.call_all()

    def prospect(self, joined: Joined) -> Prospect:
        """What the node would add to the swarm. Raises Refused when it cannot join."""
        return self.swarm.prospect(joined.node, self.swarm.newcomer(joined))

    def admit(self, joined: Joined, owed: int = 0) -> None:
        """Admit a node. owed: the answers that it may still give for the model that it served before.

        Raises Refused when it cannot join.
        """
        self.driver.apply(joined)
        self._relay.owe(joined.node, owed)
        self._lookout.heard(joined.node)

    def show(self, joined: Joined) -> None:
        """Show what the node would be given. For a while, or until it hangs up, its ticket opens the manifest."""
        self.welcomes.show(joined.node, self.swarm.newcomer(joined))

    def take(self, node: str, frames: Iterable[bytes]) -> None:
        """Take what a node says. Raises WireError for what a good node does not say."""
        self._frames.take(node, frames)

    def forget(self, node: str) -> int:
        """Forget a node that has gone, wherever it was. Returns the answers that it may still give."""
        self._lookout.forget(node)
        owed = self._relay.forget(node)
        self.driver.apply(Left(node))
        return owed

    def has(self, node: str) -> bool:
        return node in self.swarm.nodes

    def called(self, node: str) -> str:
        return called(self.swarm.nodes, node)
