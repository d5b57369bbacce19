"""Makes answers: reads the prompt, and writes one token after the other."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field

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
        writer, run = Writer(self.tokenizer, job, self.swarm.tally), self._run(job)
        try:
            asks = [(token,) for token in job.prompt[1:]] if job.echo else []
            if job.max_tokens > 1:
                run.prepare()
            async with under_way(_read(run, writer.outlook, asks)) as read:
                if job.progress:
                    async with aclosing(run.reading.during(read)) as told:
                        async for progress in told:
                            yield Delta(generated=0, progress=progress)
                *scored, candidates = await read
            if job.echo:
                yield Delta(tokens=score_prompt(job, scored), generated=0)
            if not job.max_tokens:
                yield Delta(finish="length", generated=0, cached=run.cached, session=run.number, nodes=run.nodes)
                return
            delta = writer.write(candidates)
            delta.cached, delta.session = run.cached, run.number
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

    def _run(self, job: Job) -> Run:
        model = self.guesser.open() if self.guesser is not None else None
        guesses = Guesses(job.prompt, job.prediction, model)
        return Run(job, guesses, self.swarm, self.sessions, self.changes, self.most_rows, self.row_bytes, self.traffic)


async def _read(run: Run, outlook: Outlook, asks: Sequence[tuple[int, ...]]) -> list[Candidates]:
    """Candidates for rows of the prompt, and last those for the first token, of which one can be used."""
    *scored, candidates = await run.advance([*asks, outlook.ids], outlook.top)
    return [*scored, await _usable(run, outlook, candidates)]


async def _next(run: Run, outlook: Outlook) -> Candidates:
    """Candidates for the next token, of which one can be used."""
    return await _usable(run, outlook, await run.next(outlook))


async def _usable(run: Run, outlook: Outlook, candidates: Candidates) -> Candidates:
    """The candidates, or others if none of them may come next."""
    return candidates if len(outlook.usable(candidates)) else await run.ask_again(outlook.all_ids, outlook.top)
