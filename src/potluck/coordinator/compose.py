"""Composes everything about one served model. Constructors say what listens to what; nothing is patched in later."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import msgspec

from potluck.coordinator import guessers
from potluck.coordinator.audits.auditor import Auditor
from potluck.coordinator.audits.audits import Audits, no_audits
from potluck.coordinator.audits.verdict import Judge, tolerance
from potluck.coordinator.gateway.driver import Driver
from potluck.coordinator.gateway.frames import Frames
from potluck.coordinator.gateway.gate import Gate
from potluck.coordinator.gateway.guessing import Guessers
from potluck.coordinator.gateway.lobby import Lobby
from potluck.coordinator.gateway.lookout import Lookout
from potluck.coordinator.gateway.meter import Meter
from potluck.coordinator.gateway.terms import Terms
from potluck.coordinator.gateway.welcomes import Welcomes
from potluck.coordinator.generation.defaults import sampling_defaults
from potluck.coordinator.generation.generation import Generation
from potluck.coordinator.generation.guesser_pool import GuesserPool
from potluck.coordinator.generation.guesser_process import GuesserProcess
from potluck.coordinator.generation.guesses import GuesserModel
from potluck.coordinator.generation.hidden_states import HiddenStates
from potluck.coordinator.generation.sampling import SamplingParams
from potluck.coordinator.members.books import Books
from potluck.coordinator.members.ledger import Ledger
from potluck.coordinator.model_choice import footprint
from potluck.coordinator.relay.evidence import Evidence
from potluck.coordinator.relay.pending import PendingSteps
from potluck.coordinator.relay.relay import Relay
from potluck.coordinator.relay.witness import Witness
from potluck.coordinator.sessions.admission import Admission
from potluck.coordinator.sessions.audit_sessions import AuditSessions
from potluck.coordinator.sessions.chunks import step_rows
from potluck.coordinator.sessions.closing import Closing
from potluck.coordinator.sessions.demand import Demand
from potluck.coordinator.sessions.failover import Failover
from potluck.coordinator.sessions.fair_queue import FairQueue
from potluck.coordinator.sessions.handover import Handover
from potluck.coordinator.sessions.line import Line
from potluck.coordinator.sessions.manager import SessionManager
from potluck.coordinator.sessions.payers import Payers
from potluck.coordinator.swarm.changes import Changes
from potluck.coordinator.swarm.heartbeat import Heartbeat
from potluck.coordinator.swarm.swarm import Swarm
from potluck.coordinator.swarm.tally import TokenKind
from potluck.coordinator.text.encoder import Encoder
from potluck.coordinator.text.opening import open_tokenizer
from potluck.coordinator.text.tokenizer import Tokenizer
from potluck.coordinator.topic import Topic
from potluck.coordinator.watching.modelfiles import ModelFiles
from potluck.coordinator.watching.status import swarm_status
from potluck.errors import ModelError
from potluck.models.manifest import Manifest
from potluck.models.sources import Found, local_source
from potluck.models.spans import is_proved, most_forgotten
from potluck.types import EngineKind

_MOST_SHOWN = 100
"""The waiting requests that `/status` lists."""


@dataclass(frozen=True, kw_only=True)
class SwarmService:
    """Everything that runs one model's swarm. queue: that of the waiting requests."""

    terms: Terms
    swarm: Swarm
    ledger: Ledger
    audits: Audits
    relay: Relay
    pending: PendingSteps
    queue: FairQueue
    line: Line
    changes: Changes
    handover: Handover
    payers: Payers
    closing: Closing
    sessions: SessionManager
    auditor: Auditor
    lookout: Lookout
    lobby: Lobby
    gate: Gate

    def generation(self, tokenizer: Tokenizer, guesser: GuesserModel | None = None) -> Generation:
        """The maker of answers on this swarm."""
        rows, row_bytes = step_rows(self.relay.row_bytes), self.relay.row_bytes
        return Generation(tokenizer, self.swarm, self.sessions, self.changes, rows, row_bytes, guesser)

    def hidden_states(self) -> HiddenStates:
        """The maker of hidden rows of this swarm."""
        return HiddenStates(self.sessions, self.swarm.layers, self.relay.width, step_rows(self.relay.row_bytes))

    def status(
        self,
        name: str,
        may_see: Callable[[str], bool],
        *,
        proved: bool,
        fault: str = "",
        guessers: Sequence[str] = (),
    ) -> bytes:
        """The answer of `/status` for the model of this name, as `swarm_status` has it, as JSON on one line."""
        told = swarm_status(
            self.swarm,
            name,
            self.swarm.digest,
            self.terms.context,
            self.audits,
            len(self.queue),
            self.queue.standings(self.relay.clock(), _MOST_SHOWN),
            may_see,
            self.ledger,
            self.terms.engine,
            proved=proved,
            fault=fault,
            guessers=guessers,
            state=self.gate.state,
        )
        return msgspec.json.encode(told)

    def figures(self) -> tuple[int, int, int]:
        """The tokens generated so far, the sessions that run now, and the requests that wait."""
        swarm = self.swarm
        return swarm.tally.tokens[TokenKind.GENERATED], swarm.kv_budget.streams, len(self.queue)

    def stop(self) -> None:
        """Stop: answers that are under way end with an error now, and none begins."""
        self.pending.stop()
        self.auditor.stop()
        self.lookout.stop()
        self.sessions.stop()
        self.closing.stop()
        self.changes.stop()


def compose_swarm(
    terms: Terms,
    swarm: Swarm,
    lobby: Lobby,
    *,
    width: int,
    vocabulary: int,
    names: tuple[str, ...] = ("",),
    ledger: Ledger | None = None,
    audits: Audits | None = None,
    guessers: Guessers | None = None,
    demand: Demand | None = None,
) -> SwarmService:
    """Wire what runs a swarm. width: values of a hidden row. names: the model's. ledger: where work is booked.

    guessers: whom nodes guess for. demand: that for the model; None for one that is served at all times.
    """
    ledger, audits, demand = ledger or Ledger(), audits or no_audits(), demand or Demand()
    evidence, queue, send, numbers = Topic[Evidence](), FairQueue(), lobby.outboxes.send, lobby.numbers
    witness = Witness(terms.rows, on_evidence=evidence.tell)
    relay = Relay(width, vocabulary, terms.rows, witness)
    pending, handover, most_rows = PendingSteps(relay, send), Handover(send), step_rows(relay.row_bytes)

    line = Line(queue, relay.clock)
    changes, admission, payers = Changes(line.call), Admission(swarm), Payers(line, ledger, swarm.layers)
    welcomes = Welcomes(swarm, terms, lobby.tickets, send, lobby.fleet)
    driver = Driver(swarm, relay, pending, admission, handover, welcomes, changes, send, lobby.caught, lobby.lent)

    closing = Closing(swarm, relay, witness, admission, payers, changes, send, driver.act)
    bench = AuditSessions(admission, relay, closing, numbers, send)
    auditor = Auditor(swarm, audits, ledger, relay, witness, evidence, pending, bench, changes, driver.quarantine)
    failover = Failover(swarm, admission, relay, pending, handover, auditor, most_rows, send, driver.act)
    sessions = SessionManager(
        swarm, line, demand, admission, payers, relay, pending, auditor, failover, closing, terms.context, numbers, send
    )

    heartbeat = Heartbeat()
    lookout = Lookout(swarm, relay, heartbeat, driver.apply, send, lobby.stays.end)
    meter = Meter(swarm.nodes, swarm.tally, heartbeat, ledger, payers, auditor)
    frames = Frames(swarm.nodes, lobby.stays, relay, pending, handover, driver, heartbeat, lookout, meter, send)
    return SwarmService(
        terms=terms,
        swarm=swarm,
        ledger=ledger,
        audits=audits,
        relay=relay,
        pending=pending,
        queue=queue,
        line=line,
        changes=changes,
        handover=handover,
        payers=payers,
        closing=closing,
        sessions=sessions,
        auditor=auditor,
        lookout=lookout,
        lobby=lobby,
        gate=Gate(names, terms.engine, swarm, relay, driver, welcomes, lookout, frames, guessers, demand, line),
    )


@dataclass(frozen=True, kw_only=True)
class ModelService:
    """Everything about one model that is served: the model, its tokenizer, its encoder, and its swarm.

    sampling: that of requests that do not say it. proved: whether it is known that its parts compute what the whole
    does. files: those of its weights; None if they are on the hub. guessers: the small models that guess for it.
    process: that of the one beside the coordinator.
    """

    manifest: Manifest
    found: Found
    tokenizer: Tokenizer
    encoder: Encoder
    sampling: SamplingParams
    running: SwarmService
    generation: Generation
    guessers: GuesserPool
    process: GuesserProcess | None
    hidden_states: HiddenStates
    proved: bool
    files: ModelFiles | None

    def status(self, may_see: Callable[[str], bool] = lambda _: False) -> bytes:
        """The answer of `/status`, as JSON on one line, for a reader who may see the names of some accounts."""
        fault = self.files.fault if self.files is not None else ""
        return self.running.status(
            self.manifest.name, may_see, proved=self.proved, fault=fault, guessers=self.guessers.names
        )


def compose_running(
    manifest: Manifest,
    terms: Terms,
    audit_rate: float,
    lobby: Lobby,
    books: Books,
    names: tuple[str, ...],
    guessers: Guessers | None = None,
    demand: Demand | None = None,
) -> SwarmService:
    """Wire what runs the swarm of a model. manifest: its outline will do.

    audit_rate: the share of all stage-steps that other nodes compute again. names: by which the model is asked for.
    guessers, demand: as in `compose_swarm`.
    """
    judge = Judge(manifest.hidden_size, terms.rows, tolerance(terms.engine, terms.rows))
    return compose_swarm(
        terms,
        Swarm(
            terms.digest,
            footprint(manifest, terms.engine, terms.quantize, terms.context, terms.rows, terms.attention),
            forgets=most_forgotten(manifest, terms.engine),
        ),
        lobby,
        width=manifest.hidden_size,
        names=names,
        vocabulary=manifest.vocabulary,
        ledger=books.ledger,
        audits=Audits(audit_rate, judge.agree),
        guessers=guessers,
        demand=demand,
    )


def compose_model(
    manifest: Manifest,
    found: Found,
    terms: Terms,
    encoder: Encoder,
    run: Callable[[Guessers | None], SwarmService],
    guesser: Found | None = None,
) -> ModelService:
    """Wire everything about one model. run: returns what runs its swarm, for those who guess for it.

    guesser: the small model that is to guess for it.

    Raises ModelError when its tokenizer or its sampling cannot be read, or when the small model cannot guess for it.
    """
    tokenizer = open_tokenizer(found.path)
    pool = GuesserPool(manifest.name, tokenizer, manifest.vocabulary, terms.context)
    forgets = most_forgotten(manifest, terms.engine)
    process = None
    if guesser is not None:
        if not forgets:
            raise ModelError(f"Nothing can guess for {manifest.name}, because it cannot take back what it has read.")
        process = guessers.make_guesser(guesser, manifest, tokenizer, terms.context)
        pool.add(process.model)
    running = run(pool if forgets else None)
    return ModelService(
        manifest=manifest,
        found=found,
        tokenizer=tokenizer,
        encoder=encoder,
        sampling=sampling_defaults(manifest, found.path),
        running=running,
        generation=running.generation(tokenizer, pool),
        guessers=pool,
        process=process,
        hidden_states=running.hidden_states(),
        proved=is_proved_by(terms.engine, manifest),
        files=ModelFiles(local_source(found.path).folder, manifest.files) if found.hub is None else None,
    )


def is_proved_by(engine: EngineKind, manifest: Manifest) -> bool:
    """Whether it is known that the parts of the model compute what the whole does."""
    return engine is EngineKind.TRANSFORMERS or is_proved(manifest)
