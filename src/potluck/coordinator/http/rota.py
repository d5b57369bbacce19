"""The rota of the work that clients ask for: whose job runs next, so that nobody waits for what another asks. Pure."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

Job = TypeVar("Job", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Asker:
    """The one for whom work is done: an account or, of those who have none, an address. stranger: has no account."""

    name: str = ""
    stranger: bool = False


class Rota(Generic[Job]):
    """Gives workers their jobs. Askers take turns, each with one job at a time, and strangers come last.

    Strangers never have the last worker, which stays for those with accounts.
    workers: how many jobs run at once, 2 or more. most_waiting: the jobs of one asker that may wait.
    """

    def __init__(self, workers: int, most_waiting: int) -> None:
        self._workers = workers
        self._most_waiting = most_waiting
        self._waiting: dict[Asker, dict[Job, None]] = {}
        """The jobs of those who wait, the asker whose turn it is first."""
        self._running: set[Asker] = set()

    def add(self, asker: Asker, job: Job) -> bool:
        """Let a job wait for its turn. Returns False, and forgets it, where too many of this asker's wait already."""
        jobs = self._waiting.setdefault(asker, {})
        if len(jobs) >= self._most_waiting:
            return False
        jobs[job] = None
        return True

    def drop(self, asker: Asker, job: Job) -> None:
        """Forget a job that nobody waits for any more. One that runs, or has run, is none of the rota's."""
        jobs = self._waiting.get(asker, {})
        if job in jobs:
            del jobs[job]
            self._forget_if_idle(asker)

    def begin(self) -> tuple[Asker, Job] | None:
        """The job that a free worker begins now, and who asked for it; None if none may begin. Call `end` after it."""
        able = [asker for asker in self._waiting if self._may_begin(asker)]
        if not able:
            return None
        asker = min(able, key=lambda one: one.stranger)  # the first of them, because min is stable
        jobs = self._waiting.pop(asker)
        job = next(iter(jobs))
        del jobs[job]
        self._waiting[asker] = jobs  # now the last in the line
        self._forget_if_idle(asker)
        self._running.add(asker)
        return asker, job

    def end(self, asker: Asker) -> None:
        """The asker's job has ended."""
        self._running.remove(asker)

    def _may_begin(self, asker: Asker) -> bool:
        if asker in self._running or len(self._running) >= self._workers:
            return False
        strangers = sum(one.stranger for one in self._running)
        return not asker.stranger or strangers < self._workers - 1

    def _forget_if_idle(self, asker: Asker) -> None:
        if not self._waiting[asker]:
            del self._waiting[asker]
