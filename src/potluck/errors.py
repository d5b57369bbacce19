"""Every exception Potluck raises on purpose. Its text is one sentence for the person who reads it.

PotluckError
├── ModelError            the files of a model are missing, broken, or of a kind no engine runs
│   ├── IntegrityError    bytes do not have the SHA-256 that the manifest gives for them
│   ├── WeightsAway       the coordinator gives no weights now, with its reason, but it may later
│   └── TicketExpired     the coordinator gives no weights, because the link that they were for is gone
├── SpanError             a span is malformed or lies outside the model
├── EngineError           the engine could not load or run a span
│   └── CapacityError     the engine's KV cache or session table is full
├── ProxyFault            the settings for proxies are wrong, or name one that cannot be used here
├── WireError             a frame breaks the protocol
├── NoCoordinator         what answers at an address is no coordinator, and will not become one by itself
├── LinkClosed            the other end of a link is gone
├── IdentityError         a key is not proven, not the known one, or not usable
├── Refused               the coordinator does not admit this node, with its reason
├── StoreError            the coordinator's database cannot be opened, or failed
├── RequestError          a client's request is wrong (HTTP status 4xx)
└── Unavailable           the swarm cannot serve the request now (HTTP status 503)
    ├── Busy              too many requests wait already (HTTP status 429)
    ├── BusAway           the server over which a fleet's coordinators talk does not answer
    ├── RouteLost         a node of the session's route was lost; the session may be mended or replayed
    └── RebuildFailed     what a lost node held of a session cannot be had from the nodes beside it
"""


class PotluckError(Exception):
    """The base of all these exceptions; `str(error)` is a sentence fit for the command line."""


class ModelError(PotluckError):
    pass


class IntegrityError(ModelError):
    pass


class WeightsAway(ModelError):
    pass


class TicketExpired(ModelError):
    pass


class SpanError(PotluckError):
    pass


class EngineError(PotluckError):
    pass


class CardLost(EngineError):
    """The graphics cards cannot take what they were to take, and the rest of the machine cannot take it instead."""


class CapacityError(EngineError):
    pass


class ProxyFault(PotluckError):
    pass


class WireError(PotluckError):
    pass


class NoCoordinator(PotluckError):
    pass


class LinkClosed(PotluckError):
    pass


class IdentityError(PotluckError):
    pass


class Refused(PotluckError):
    pass


class StoreError(PotluckError):
    """The database cannot be opened, or failed. is_away: its server cannot be reached, which may soon be over."""

    def __init__(self, message: str, *, is_away: bool = False) -> None:
        super().__init__(message)
        self.is_away = is_away


class RequestError(PotluckError):
    """A client's mistake. `status` is the HTTP status, `param` the field at fault, `code` OpenAI's short name.

    retry_s: seconds after which the same request may be sent again.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int = 400,
        param: str | None = None,
        code: str | None = None,
        retry_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.param = param
        self.code = code
        self.retry_s = retry_s


class Unavailable(PotluckError):
    pass


class Busy(Unavailable):
    pass


class BusAway(Unavailable):
    pass


class RouteLost(Unavailable):
    """A stage of the session's route was lost. `node` is the one that could not run a step, if one is to blame."""

    def __init__(self, message: str, node: str | None = None) -> None:
        super().__init__(message)
        self.node = node


class RebuildFailed(Unavailable):
    pass
