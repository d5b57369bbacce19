"""Makes answers: reads the prompt, and writes one token after the other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field

from potluck.coordinator.generation.begun import Begun
from potluck.coordinator.generation.guesses import GuesserModel, Guesses
from potluck.coordinator.generation.job import Delta, Job
from potluck.coordinator.generation.outlook import Outlook
from potluck.coordinator.generation.reading import under_way
from potluck.coordinator.generation.run import Run
from potluck.coordinator.generation.traffic import Traffic
from potluck.coordinator.generation.writer import Writer, score_prompt
from potluck.coordinator.relay.candidates import Candidates
from potluck.coordinator.sessions.manager import SessionManager
from potluck.coordinator.swarm.changes import Changes
from potluck.coordinator.swarm.swarm import Swarm
from potluck.coordinator.text.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class Generation:
    """Makes answers. swarm: its nodes are named in answers, and its tally counts tokens.

    most_rows: the positions that a step may carry. row_bytes: those of a hidden row.
    guesser: a small model that guesses, if there is one. traffic: what all answers share.
    """

    tokenizer: Tokenizer
    swarm: Swarm
    sessions: SessionManager
    changes: Changes
    most_rows: int
    row_bytes: int
    guesser: GuesserModel | None = None
    traffic: Traffic = field(default_factory=Traffic)

    async def answer(self, job: Job) -> AsyncGenerator[Delta, None]:
        """The answer piece by piece. Closing this generator ends its session.

        Raises Unavailable when the swarm cannot serve the request, or lost it for good.
        """
        writer = Writer(self.tokenizer, job, self.swarm.tally)
        begun = Begun(job, writer)
        run = self._run(job, begun)
        try:
            if job.max_tokens > 1 and not begun.ended:
                run.prepare()
            async with under_way(_read(run, writer.outlook, begun)) as read:
                if job.progress and not begun.deltas:  # whoever has some of the answer does not wait for its beginning
                    async with aclosing(run.reading.during(read)) as told:
                        async for progress in told:
                            yield Delta(generated=0, progress=progress)
                rows = await read
            if job.echo:
                yield Delta(tokens=score_prompt(job, rows), generated=0)
            if not job.max_tokens:
                yield Delta(finish="length", generated=0, cached=run.cached, session=run.number, nodes=run.nodes)
                return
            begun.score(rows)
            *before, delta = begun.deltas if begun.ended else [*begun.deltas, writer.write(rows[-1])]
            first = before[0] if before else delta
            first.cached, first.session = run.cached, run.number
            for known in before:
                yield known
                await asyncio.sleep(0)  # there may be thousands
            for held in (rows, before, begun.deltas):
                held.clear()  # nothing of it is needed any more
            with self.traffic.answering():
                while delta.finish is None:
                    yield delta
                    run.know(writer.last)
                    delta = writer.write(await _next(run, writer.outlook))
            run.land()
            delta.nodes, delta.guessed = run.nodes, run.guessed
            yield delta
        finally:
            run.end()

    def _run(self, job: Job, begun: Begun) -> Run:
        model = self.guesser.open() if self.guesser is not None else None
        guesses = Guesses(job.prompt, job.prediction, model)
        return Run(
            job,
            begun.fed,
            guesses,
            self.swarm,
            self.sessions,
            self.changes,
            self.most_rows,
            self.row_bytes,
            self.traffic,
        )


async def _read(run: Run, outlook: Outlook, begun: Begun) -> list[Candidates]:
    """Candidates for rows of the prompt and of what is given, and last those for the next token, of which one can be
    used.
    """
    asks = begun.asks(outlook)
    rows = await run.advance(asks, outlook.top) if asks else []
    if not begun.ended:
        rows[-1] = await _usable(run, outlook, rows[-1])
    return rows


async def _next(run: Run, outlook: Outlook) -> Candidates:
    """Candidates for the next token, of which one can be used."""
    return await _usable(run, outlook, await run.next(outlook))


async def _usable(run: Run, outlook: Outlook, candidates: Candidates) -> Candidates:
    """The candidates, or others if none of them may come next."""
    return candidates if len(outlook.usable(candidates)) else await run.ask_again(outlook.all_ids, outlook.top)
