"""What a coordinator knows of the others: the latest record of each, for as long as it is renewed. Pure."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from msgspec.structs import replace

from potluck.coordinator.fleet.records import ModelRecord, Record

LEASE_S = 7.0
"""Seconds for which a record counts. It is renewed every two seconds."""
_SHUN_S = 3.0
"""Seconds for which a coordinator that did not answer gets no requests, even if its record is renewed."""


@dataclass
class _Known:
    """A coordinator's latest record. since: when it came. sent: the requests that went there since, by model."""

    record: Record
    since: float
    sent: Counter[str] = field(default_factory=Counter)
    shunned_until: float = 0.0


class Directory:
    """The other coordinators. own: the public key of this one. Times are seconds of one clock."""

    def __init__(self, own: bytes) -> None:
        self._own = own
        self._known: dict[bytes, _Known] = {}

    def note(self, record: Record, now: float) -> bool:
        """Take a record, unless it is older than the one that is known. Returns whether coordinators or what they serve
        have changed by it.
        """
        if record.key == self._own:
            return False
        before = self._known.get(record.key)
        if before is not None and record.age <= before.record.age:
            return False
        shunned = before.shunned_until if before is not None else 0.0
        self._known[record.key] = _Known(record, now, shunned_until=shunned)
        if before is None or now - before.since > LEASE_S:
            return True
        return _served(before.record) != _served(record)

    def forget(self, now: float) -> bool:
        """Forget coordinators that were not heard of for long. Returns whether there were some."""
        gone = [key for key, known in self._known.items() if now - known.since > LEASE_S]
        for key in gone:
            del self._known[key]
        return bool(gone)

    def others(self, now: float) -> list[Record]:
        """The coordinators that serve, in an order that all know."""
        known = [known for known in self._known.values() if now - known.since <= LEASE_S]
        alive = [each.record for each in known if not each.record.gone]
        return sorted(alive, key=lambda record: record.key)

    def answering(self, name: str, now: float) -> list[tuple[Record, ModelRecord]]:
        """The coordinators with this model that are not shunned, with what is known of it there: what was sent there
        since counts as waiting.
        """
        found = []
        for record in self.others(now):
            known, model = self._known[record.key], record.of(name)
            if model is not None and known.shunned_until <= now:
                found.append((record, replace(model, waiting=model.waiting + known.sent[model.digest])))
        return found

    def sent(self, key: bytes, name: str) -> None:
        """Note that a request for this model goes to a coordinator, whose record does not know it yet."""
        known = self._known.get(key)
        model = known.record.of(name) if known is not None else None
        if known is not None and model is not None:
            known.sent[model.digest] += 1

    def shun(self, key: bytes, now: float) -> None:
        """Note that a coordinator did not answer."""
        if key in self._known:
            self._known[key].shunned_until = now + _SHUN_S


def _served(record: Record) -> tuple[object, ...]:
    return record.url, record.gone, [(model.names, model.digest, model.covered) for model in record.models]
