"""The answers of `/status` (the model, who serves which layers, and what is missing) and of `/v1/account`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from msgspec import UNSET, Struct, UnsetType

from potluck.coordinator.audits.audits import Audits, Record
from potluck.coordinator.members.ledger import Account, Ledger
from potluck.coordinator.members.members import Member
from potluck.coordinator.relay.foresight import were_right
from potluck.coordinator.sessions.claim import weight_of
from potluck.coordinator.sessions.demand import ModelState
from potluck.coordinator.sessions.fair_queue import Standing
from potluck.coordinator.swarm.events import Joined
from potluck.coordinator.swarm.node import Node
from potluck.coordinator.swarm.swarm import Swarm
from potluck.coordinator.swarm.tally import Outcome, Source, Tally, TokenKind
from potluck.coordinator.watching.history import Sample
from potluck.types import EngineKind


class NodeStatus(Struct, frozen=True, kw_only=True):
    """A node in the status.

    tokens_per_s: of one stream through this node's span alone. sessions: answers under way on it.
    rows: those that it has computed since it came. credits: what its account has earned and not spent.
    parked: sessions that are kept for a follow-up. held: sessions whose keys and values it holds, as it last said.
    round_trip_s: the part of a step that is spent outside the node. audits_passed, audits_failed: of this node.
    audited_at: Unix time of its latest audit since it came; null if there was none.
    reason: why it is not used. memory, gpu_memory: the bytes that it offers, of its memory and of its graphics cards.
    """

    name: str
    span: str
    state: str
    reason: str
    progress: float
    tokens_per_s: float | None
    prefill_tokens_per_s: float | None
    sessions: int
    parked: int
    held: int
    rows: int
    credits: int
    trusted: bool
    audits_passed: int
    audits_failed: int
    audited_at: int | None
    round_trip_s: float
    threads: int
    memory: int
    gpu_memory: int
    layout: str
    twin: str
    software: str


class QueueStatus(Struct, frozen=True):
    """A waiting request. priority: its class. reason: the reason for its place, in a sentence.

    account: empty if it was sent without a key, or if the account is another's than the reader's; then the reason tells
    neither the account nor its weight.
    """

    priority: str
    account: str
    waited_s: float
    reason: str


class GuessStatus(Struct, frozen=True):
    """The tokens that were sent before they were known, since the coordinator started. right: those that came, by who
    guessed them. models: the names of the small models that can guess now.

    told: those, and the share of the right ones, in sentences; empty if there is neither.
    """

    fed: int
    right: dict[str, int]
    models: list[str]
    told: str


class Status(Struct, frozen=True, kw_only=True):
    """The status of a model's swarm.

    fault: what the owner has to mend so that nodes get the model, in a sentence; empty if nothing.
    proved: whether it is known that the parts of such a model compute what the whole does.
    served: how many ready nodes serve each layer. missing: spans that none serves. waiting: requests in the line.
    state: "ready" (all layers are covered), "loading" (nodes load some that lack), "incomplete" (nobody does), or
    "offered" (it is loaded when somebody asks).
    limit: what limits the swarm now, in a sentence. tokens: generated since the coordinator started.
    streams: sessions that are not parked. queue: the first of the waiting requests.
    audits_undecided: audits in which nodes contradicted each other, and nobody could tell which one was wrong.
    """

    model: str
    digest: str
    engine: EngineKind
    proved: bool
    fault: str
    layers: int
    context: int
    served: list[int]
    covered: bool
    state: ModelState
    missing: list[str]
    limit: str
    tokens: int
    guesses: GuessStatus
    streams: int
    waiting: int
    queue: list[QueueStatus]
    audits_passed: int
    audits_failed: int
    audits_undecided: int
    nodes: list[NodeStatus]


class StatusEvent(Status, frozen=True, kw_only=True):
    """An event of `/status/events`. history: in the first one, a sample for each second of the last five minutes."""

    history: list[Sample] = []


class IdleStatus(Struct, frozen=True):
    """A node that waits without layers until somebody asks for a model. memory, gpu_memory: in bytes."""

    name: str
    memory: int
    gpu_memory: int
    threads: int
    software: str


class Statuses(Struct, frozen=True):
    """The status where several models are served, in their order, or some are offered. idle: nodes that wait until
    somebody asks for one; missing where none is offered.
    """

    models: list[Status]
    idle: list[IdleStatus] | UnsetType = UNSET


class StatusesEvent(Struct, frozen=True):
    """An event of `/status/events` where `/status` answers with a list. idle: as there."""

    models: list[StatusEvent]
    idle: list[IdleStatus] | UnsetType = UNSET


def idle_status(waiting: Iterable[Joined]) -> list[IdleStatus]:
    """The status of nodes that wait without layers."""
    hellos = sorted((joined.hello for joined in waiting), key=lambda hello: hello.name)
    return [IdleStatus(one.name, one.memory, one.gpu_memory, one.threads, one.software) for one in hellos]


def swarm_status(
    swarm: Swarm,
    model: str,
    digest: str,
    context: int,
    audits: Audits,
    waiting: int,
    queue: Sequence[Standing] = (),
    may_see: Callable[[str], bool] = lambda _: False,
    ledger: Ledger | None = None,
    engine: EngineKind = EngineKind.LLAMACPP,
    *,
    proved: bool = True,
    fault: str = "",
    guessers: Sequence[str] = (),
    state: ModelState | None = None,
) -> Status:
    """The status for a reader who may see the names of some of the waiting accounts. guessers: the small models.

    state: that of the model; None leaves it to the layers."""
    missing = [str(span) for span in swarm.missing()]
    known = sorted(swarm.nodes.values(), key=lambda node: (node.span, node.name))
    nodes = [_node_status(node, audits.record(node.key), ledger or Ledger()) for node in known]
    total = audits.totals
    return Status(
        model=model,
        digest=digest,
        engine=engine,
        proved=proved,
        fault=fault,
        layers=swarm.layers,
        context=context,
        served=swarm.served(),
        covered=not missing,
        state=state or (ModelState.INCOMPLETE if missing else ModelState.READY),
        missing=missing,
        limit=swarm.limit(),
        tokens=swarm.tally.tokens[TokenKind.GENERATED],
        guesses=_guess_status(swarm.tally, guessers),
        streams=swarm.kv_budget.streams,
        waiting=waiting,
        queue=[_queue_status(standing, named=may_see(standing.claim.account)) for standing in queue],
        audits_passed=total.passed,
        audits_failed=total.failed,
        audits_undecided=audits.undecided,
        nodes=nodes,
    )


def _guess_status(tally: Tally, models: Sequence[str]) -> GuessStatus:
    fed = tally.guesses.total()
    right: dict[str, int] = {source: tally.guesses[source, Outcome.RIGHT] for source in Source}
    shares = [f"{were_right(sum(right.values()), fed)}."] if fed else []
    here = [f"Small models that guess: {', '.join(models)}."] if models else []
    return GuessStatus(fed, right, list(models), " ".join(here + shares))


def _queue_status(standing: Standing, *, named: bool) -> QueueStatus:
    claim, word = standing.claim, standing.claim.rank.word
    account = claim.account if named else ""
    who = f"{word}, account {account}, weight {claim.weight:.1f}" if account else word
    return QueueStatus(word, account, round(standing.waited_s, 1), f"{who}: {standing.reason}")


def _node_status(node: Node, record: Record, ledger: Ledger) -> NodeStatus:
    return NodeStatus(
        name=node.name,
        span=str(node.span),
        state=node.state,
        reason=node.reason,
        progress=round(node.fraction, 3),
        tokens_per_s=_rate(node.ready.speed.decode_s),
        prefill_tokens_per_s=_rate(node.ready.speed.prefill_s),
        sessions=node.open_sessions,
        parked=len(node.parked),
        held=node.held,
        rows=node.rows,
        credits=ledger.balance(node.entry.account) if node.entry.account else 0,
        trusted=node.entry.trusted,
        audits_passed=record.passed,
        audits_failed=record.failed,
        audited_at=node.audited_at,
        round_trip_s=round(node.measure.hop_s, 5),
        threads=node.threads,
        memory=node.memory,
        gpu_memory=node.gpu_memory,
        layout=node.ready.layout,
        twin=node.ready.twin,
        software=node.software,
    )


class AccountNode(Struct, frozen=True):
    """A node that earns for an account. key: the node's public key, in hex."""

    name: str
    key: str


class AccountStatus(Struct, frozen=True):
    """An account, in layer-tokens. credits: earned and not spent. pending: not yet audited. nodes: those that earn for
    it.

    weight: how much more work its requests get than those of an account without credits.
    """

    account: str
    credits: int
    earned: int
    spent: int
    pending: int
    weight: float
    nodes: list[AccountNode]


def account_status(name: str, account: Account, pending: int, nodes: Iterable[Member]) -> AccountStatus:
    known = [AccountNode(node.name, node.key) for node in nodes]
    weight = round(weight_of(account.balance), 3)
    return AccountStatus(name, account.balance, account.earned, account.spent, pending, weight, known)


def _rate(seconds: float) -> float | None:
    return round(1 / seconds, 1) if seconds else None
