"""Sessions over the real relay and witness, on toy nodes whose every row follows from all rows before it.

Whatever happens to a session — lost nodes, heirs, late frames, parking, liars — evidence of a stage must hold what its
node really computed from: an honest auditor makes the same of it.
"""

from __future__ import annotations

import zlib
from collections import deque
from collections.abc import Sequence
from random import Random

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from potluck.coordinator.relay.evidence import Answer, Evidence
from potluck.coordinator.relay.forward import Forward
from potluck.coordinator.relay.relay import Relay
from potluck.coordinator.relay.witness import Witness
from potluck.node.candidates import best_candidates
from potluck.types import RowFormat, Span, Stage
from potluck.wire.codec import decode_from_coordinator, decode_from_node, encode
from potluck.wire.messages import Close, Failed, Hidden, Kept, Recall, Scores, Step
from potluck.wire.rows import join_rows, pack_ids, pack_rows, pack_scores, split_rows, split_scores

LAYERS, WIDTH, VOCABULARY = 4, 2, 8


def values(salt: int, span: Span, rows: Sequence[bytes], count: int) -> np.ndarray:
    """What a node computes at the last of these positions: of all of them, and of who it is."""
    digest = zlib.crc32(b"".join(rows), zlib.crc32(bytes((salt, span.first, span.last))))
    return np.array([digest >> 3 * place & 7 for place in range(count)], np.float32)


class Node:
    """Its frames wait until they are delivered, in both directions. salt: 0 of honest nodes; liars have others.

    A session's rows that it was given are its state; its journal follows from them.
    """

    def __init__(self, name: str, first: int, salt: int, form: RowFormat) -> None:
        self.name, self.first, self.salt, self.form = name, first, salt, form
        self.state: dict[int, list[bytes]] = {}
        self.spans: dict[int, Span] = {}
        self.inbox: deque[bytes] = deque()
        self.outbox: deque[bytes] = deque()
        self.forgetful = False

    @property
    def waits(self) -> bool:
        return bool(self.inbox or self.outbox)

    def work(self) -> None:
        message, payload = decode_from_coordinator(self.inbox.popleft())
        match message:
            case Close(session):
                self.state.pop(session, None)
            case Step():
                self.outbox.append(self._run(message, payload))
            case Recall():
                self.outbox.append(self._recalled(message))

    def _run(self, step: Step, payload: memoryview) -> bytes:
        held = self.state.setdefault(step.session, [])
        if step.position > len(held):
            return encode(Failed(step.session, step.route, step.step, "It does not follow."))
        del held[step.position :]
        span = self.spans[step.session] = Span(self.first, step.last)
        held += split_rows(payload, step.rows, self.form if self.first else RowFormat.F32)
        if step.keep:
            return encode(Kept(step.session, step.route, step.step, 0.0, 0.0))
        answered = range(len(held) - step.rows, len(held))
        if step.last < LAYERS - 1:
            rows = self._rows(span, held, answered)
            return encode(Hidden(step.session, step.route, step.step, step.rows, 0.0, 0.0), rows)
        asked = zip(answered[step.rows - len(step.asks) :], step.asks, strict=True)
        scored = [self._scored(span, held[: position + 1], step.top, ask) for position, ask in asked]
        counts = tuple(len(ids) for ids, _, _ in scored)
        return encode(Scores(step.session, step.route, step.step, counts, 0.0, 0.0), pack_scores(scored))

    def _rows(self, span: Span, held: list[bytes], positions: range) -> bytes:
        rows = [values(self.salt, span, held[: position + 1], WIDTH) for position in positions]
        return join_rows([pack_rows(row[None], self.form) for row in rows], self.form)

    def _scored(
        self, span: Span, held: list[bytes], top: int, ask: tuple[int, ...]
    ) -> tuple[np.ndarray, np.ndarray, float]:
        return best_candidates(values(self.salt, span, held, VOCABULARY), top, ask)

    def _recalled(self, recall: Recall) -> bytes:
        held = self.state.get(recall.session, [])
        positions = range(recall.position, recall.position + recall.rows)
        if self.forgetful or len(held) < positions.stop:
            return encode(
                Failed(recall.session, recall.route, recall.step, "The journal does not reach that far back.")
            )
        rows = self._rows(self.spans[recall.session], held, positions)
        return encode(Hidden(recall.session, recall.route, recall.step, recall.rows, 0.0, 0.0), rows)

    def audit(self, evidence: Evidence) -> Answer:
        """What it makes of the evidence's questions."""
        rows: list[bytes | None] = []
        form = self.form if self.first else RowFormat.F32
        for number, question in enumerate(evidence.questions()):
            step = Step(
                session=-1,
                route=0,
                step=number,
                position=question.position,
                rows=len(question.rows),
                last=evidence.stage.span.last,
                top=question.top,
                asks=question.asks,
                stages=1,
            )
            message, payload = decode_from_node(self._run(step, memoryview(join_rows(question.rows, form))))
            if isinstance(message, Scores):
                rows += [None] * (step.rows - len(message.counts))
                rows += split_scores(payload, message.counts)
            else:
                rows += split_rows(payload, step.rows, self.form)
        return tuple(row if gave is not None else None for row, gave in zip(rows, evidence.gave, strict=True))


class Swarm:
    """Nodes, the relay, and chance, which says what happens next."""

    def __init__(self, chance: Random) -> None:
        self.chance = chance
        self.form = chance.choice(list(RowFormat))
        self.limit = chance.choice((200, 1000, 1 << 20))
        self.witness = Witness(self.form, self.limit, self.judge)
        self.relay = Relay(WIDTH, VOCABULARY, self.form, self.witness)
        self.judged = 0
        self.nodes: dict[str, Node] = {}
        self.met: dict[str, Node] = {}
        for _ in range(2):
            for first in range(LAYERS):
                self.join(first)
        self.chats = [Chat(self, number) for number in (1, 2)]

    def judge(self, evidence: Evidence) -> None:
        """An auditor like the audited node finds nothing."""
        known = self.met[evidence.stage.node]
        auditor = Node("auditor", known.first, known.salt, self.form)
        assert evidence.final == (evidence.stage.span.last == LAYERS - 1)
        assert auditor.audit(evidence) == evidence.gave
        self.judged += 1

    def join(self, first: int) -> Node:
        salt = self.chance.choice((0, 0, 0, 1))
        node = Node(f"n{len(self.met)}", first, salt, self.form)
        self.nodes[node.name] = self.met[node.name] = node
        return node

    def send(self, *outgoing: tuple[str, bytes] | None) -> None:
        for item in outgoing:
            if item is not None and item[0] in self.nodes:
                self.nodes[item[0]].inbox.append(item[1])

    def happen(self) -> None:
        """Frames move most of the time; now and then something befalls a node or a chat."""
        busy = [node for node in self.nodes.values() if node.waits]
        if busy and self.chance.random() < 0.8:
            self.deliver(self.chance.choice(busy))
        elif self.chance.random() < 0.15:
            self.lose(self.chance.choice(list(self.nodes.values())))
        else:
            self.chance.choice(self.chats).act()
        records = [one for records in self.witness._records.values() for one in records.values()]
        assert self.witness.nbytes == sum(record.nbytes for record in records) <= self.limit

    def deliver(self, node: Node) -> None:
        if node.inbox and (not node.outbox or self.chance.random() < 0.5):
            node.work()
            return
        message, payload = decode_from_node(node.outbox.popleft())
        match message:
            case Hidden():
                answered = self.relay.hidden(node.name, message, payload)
                if answered is not None:
                    self.send(answered.onward)
            case Scores():
                if self.relay.scores(node.name, message, payload) is not None:
                    self.chat(message.session).stepped(message.step)
            case Kept():
                if self.relay.kept(node.name, message) is not None:
                    self.chat(message.session).stepped(message.step)
            case Failed():
                step = self.relay.failed(node.name, message)
                if step is not None:
                    self.chat(message.session).failed(node, step)

    def chat(self, session: int) -> Chat:
        return next(chat for chat in self.chats if chat.number == session)

    def lose(self, node: Node) -> None:
        """It dies, or is passed over for a while: then its frames come late."""
        if self.chance.random() < 0.5:
            del self.nodes[node.name]
            self.relay.forget(node.name)
            self.join(node.first)
        for chat in self.chats:
            if any(stage.node == node.name for stage in chat.route):
                chat.lose(node.name)


class Chat:
    """What `generation` and `session` do with one session. done: tokens that all its nodes hold.

    lacking: as in Session. due: nodes of the route that others must replace. under_way: steps, in order.
    """

    def __init__(self, swarm: Swarm, number: int) -> None:
        self.swarm, self.chance, self.relay = swarm, swarm.chance, swarm.relay
        self.number = number
        self.steps = 0
        self.tokens: list[int] = []
        self.done = 0
        self.under_way: dict[int, Forward] = {}
        self.lacking: dict[str, int] = {}
        self.due: set[str] = set()
        self.route = self.part(Span(0, LAYERS - 1))
        self.relay.open(number, self.route, 1)
        self.watch(range(len(self.route)), 0)

    def part(self, span: Span) -> tuple[Stage, ...]:
        """Any way through these layers."""
        stages, first = list[Stage](), span.first
        while first <= span.last:
            last = self.chance.randint(first, span.last)
            node = self.chance.choice([node for node in self.swarm.nodes.values() if node.first == first])
            stages.append(Stage(node.name, Span(first, last)))
            first = last + 1
        return tuple(stages)

    def watch(self, places: Sequence[int], before: int) -> None:
        wants = {place: self.chance.randint(1, 12) for place in places if self.chance.random() < 0.7}
        self.swarm.witness.watch(self.number, self.route, wants, before)

    def act(self) -> None:
        if self.under_way:
            if self.chance.random() < 0.05:
                self.close()
        elif self.due:
            self.mend()
        elif self.lacking:
            self.rebuild()
        elif len(self.tokens) > self.done:
            self.feed()
        else:
            self.chance.choice((self.sample, self.sample, self.ask_again, self.resume, self.hand_over, self.close))()

    def feed(self) -> None:
        limit, wanted = self.chance.randint(1, 5), self.chance.randint(1, 2)
        top = self.chance.randint(1, 3)
        starts = range(self.done, len(self.tokens), limit)
        for start in starts:
            part = self.tokens[start : start + limit]
            asks = tuple((token,) if self.chance.random() < 0.3 else () for token in part[-wanted:])
            step = self.step(start, len(part), top, asks if start == starts[-1] else ())
            self.swarm.send(self.relay.start(step, pack_ids(np.array(part, np.int32))))

    def step(
        self, start: int, rows: int, top: int, asks: tuple[tuple[int, ...], ...], *, keep: bool = False
    ) -> Forward:
        self.steps += 1
        step = self.under_way[self.steps] = Forward(
            session=self.number, step=self.steps, position=start, rows=rows, top=top, asks=asks, keep=keep
        )
        return step

    def stepped(self, number: int) -> None:
        step = self.under_way.pop(number)
        end = step.position + step.rows
        if not step.keep:
            self.done = end
            return
        for node in self.run:
            self.lacking[node] = end
            if end == self.done:
                del self.lacking[node]

    def failed(self, node: Node, step: Forward) -> None:
        if step.keep:
            self.relay.restart(self.number)
            self.under_way.clear()
            self.lacking.clear()
            self.done = 0
            return
        self.swarm.send((node.name, encode(Close(self.number))))
        self.lose(node.name)

    def lose(self, node: str) -> None:
        self.relay.lose(self.number)
        self.under_way.clear()
        self.due.add(node)

    def mend(self) -> None:
        """Others, or the same again, in place of those that are due; the later stages too, where a liar was caught."""
        route, new = list[Stage](), list[str]()
        pending: list[Stage] = []
        for stage in [*self.route, None]:
            if stage is not None and stage.node in self.due:
                pending.append(stage)
                continue
            if pending:
                heirs = self.part(Span(pending[0].span.first, pending[-1].span.last))
                route += heirs
                new += [heir.node for heir in heirs]
                pending = []
            if stage is not None:
                route.append(stage)
        if self.chance.random() < 0.3:
            tainted = min(place for place, stage in enumerate(route) if stage.node in new)
            new = [stage.node for stage in route[tainted:]]
        self.due.clear()
        self.reroute(tuple(route), new)

    def reroute(self, route: tuple[Stage, ...], new: Sequence[str], moved: Sequence[str] = ()) -> None:
        self.swarm.send(*self.relay.reroute(self.number, route))
        self.route = route
        kept = {stage.node for stage in route} - set(new)
        self.lacking = {node: held for node, held in self.lacking.items() if node in kept}
        self.lacking |= {node: 0 for node in new if node not in moved}
        heirs = [place for place, stage in enumerate(route) if self.lacking.get(stage.node) == 0]
        self.watch(heirs, self.done)

    def hand_over(self) -> None:
        """A stage moves to another node with what it holds."""
        place = self.chance.randrange(len(self.route))
        old, giver = self.route[place], self.swarm.nodes.get(self.route[place].node)
        takers = [node for node in self.swarm.nodes.values() if node.first == old.span.first and node is not giver]
        if giver is None or giver.waits or any(taker.waits for taker in takers):
            return
        taker = self.chance.choice(takers)
        if taker.salt == giver.salt:  # twins
            taker.state[self.number] = giver.state.get(self.number, [])[:]
            taker.spans[self.number] = old.span
            stage = Stage(taker.name, old.span)
            self.reroute((*self.route[:place], stage, *self.route[place + 1 :]), [taker.name], [taker.name])

    def rebuild(self) -> None:
        if not self.done:
            self.lacking.clear()
            return
        nodes = [stage.node for stage in self.route]
        first = next(place for place, node in enumerate(nodes) if node in self.lacking)
        goal = first
        while goal + 1 < len(nodes) and nodes[goal + 1] in self.lacking:
            goal += 1
        self.run = nodes[first : goal + 1]
        if first:
            self.swarm.nodes[nodes[first - 1]].forgetful = self.chance.random() < 0.1
        limit = self.chance.randint(1, 5)
        for start in range(min(self.lacking[node] for node in self.run), self.done, limit):
            part = self.tokens[start : min(start + limit, self.done)]
            step = self.step(start, len(part), 1, (), keep=True)
            self.swarm.send(self.relay.rebuild(step, pack_ids(np.array(part, np.int32)), first, goal))

    def sample(self) -> None:
        self.tokens += [self.chance.randrange(VOCABULARY) for _ in range(self.chance.choice((1, 1, 1, 9)))]

    def ask_again(self) -> None:
        self.done = max(0, self.done - 1)

    def resume(self) -> None:
        """The answer ends; the next turn goes on from some prefix."""
        self.swarm.witness.pause(self.number)
        self.done = self.chance.randint(0, self.done)
        del self.tokens[self.done :]

    def close(self) -> None:
        self.swarm.send(*self.relay.close(self.number))
        numbers = [chat.number for chat in self.swarm.chats]
        self.swarm.chats[numbers.index(self.number)] = Chat(self.swarm, max(numbers) + 1)


def played(seed: int, events: int) -> Swarm:
    swarm = Swarm(Random(seed))
    for _ in range(events):
        swarm.happen()
    for chat in list(swarm.chats):
        chat.close()
    return swarm


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**32), st.integers(0, 400))
def test_evidence_is_what_a_node_really_computed(seed: int, events: int) -> None:
    played(seed, events)


def test_there_is_evidence_of_it() -> None:
    assert sum(played(seed, 300).judged for seed in range(10)) > 50
