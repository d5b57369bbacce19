"""A small model in a process of its own: its guesses, and what becomes of answers when the process is of no use."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import psutil
import pytest

from kit.runner import run
from kit.unsplit import Unsplit
from kit.waiting import eventually, until
from potluck.coordinator.generation.guesser_process import GuesserProcess
from potluck.coordinator.generation.small_model import Patience, SmallModel
from potluck.models.sources import open_model
from potluck.types import Capacity
from potluck.wire.guesser_pipe import Pauses
from potluck.wire.guessing import Follow, Order, framed

PROMPT = [10, 11, 12]

SCRIPT = """
import os, sys, time
from potluck.wire.guessing import *
pipe, out = sys.stdin.buffer, sys.stdout.buffer
def say(message):
    out.write(framed(message))
    out.flush()
"""
COUNTS = """
say(Loaded())
while (message := receive(pipe)) is not None:
    if isinstance(message, Follow):
        for token in range(message.position + len(message.tokens), message.until):
            say(Guessed(message.answer, message.number, token))
    elif isinstance(message, Ping):
        say(Pong())
"""
"""Guesses for each position its number."""


def scripted(body: str, patience: Patience | None = None, pause_s: float = 0.01) -> GuesserProcess:
    model = SmallModel("Toy", context=100, vocabulary=50, patience=patience)
    return GuesserProcess(model, [sys.executable, "-c", SCRIPT + body], Pauses(pause_s, 4 * pause_s))


def small(model: Path, *, context: int = 512, sessions: int = 4) -> GuesserProcess:
    manifest = open_model(model)
    order = Order(str(model), manifest.layers, Capacity(sessions, 2 * context, 64), 1, manifest.vocabulary)
    command = [sys.executable, "-m", "potluck.node.guesser", msgspec.json.encode(order).decode()]
    return GuesserProcess(
        SmallModel(manifest.name, context=context, vocabulary=manifest.vocabulary), command, Pauses(0.01, 0.04)
    )


async def here(process: GuesserProcess) -> int:
    """The process's number, once it can guess."""
    await until(lambda: process.model.is_here)
    assert process.pid is not None
    return process.pid


def test_its_guesses_are_what_the_whole_model_would_say(smollm2: Path) -> None:
    unsplit = Unsplit(smollm2, 512)
    texts = ["The capital of France is", "def fibonacci(n):", "the " * 25]
    prompts = [unsplit.encode(text) for text in texts]
    answers = [unsplit.greedy(prompt, 24, ignore_eos=True) for prompt in prompts]
    unsplit.close()

    async def guessed(model: SmallModel, prompt: list[int], answer: list[int]) -> list[int]:
        """Its guess for each token, of which the last three are never known yet."""
        guesser, guesses = model.open(), list[int]()
        for place in range(len(answer)):
            ahead = min(place, 3)
            token = await guesser.guess([*prompt, *answer[:place]], ahead)
            assert token is not None
            guesses.append(token)
        guesser.close()
        return guesses

    async def wrong(model: SmallModel, prompt: list[int], answer: list[int]) -> list[int | None]:
        """Its guesses behind tokens that nobody would have guessed, and then again behind the right ones."""
        guesser = model.open()
        await guesser.guess([*prompt, *answer[:4], 5], 1)
        await guesser.guess([*prompt, *answer[:6]], 3)
        return [await guesser.guess([*prompt, *answer[:place]], 0) for place in (4, 5, 8)]

    async def test() -> None:
        process = small(smollm2)
        async with process.kept():
            await here(process)
            pairs = list(zip(prompts, answers, strict=True))
            assert await asyncio.gather(*(guessed(process.model, *pair) for pair in pairs)) == answers
            for prompt, answer in pairs:
                assert await wrong(process.model, prompt, answer) == [answer[4], answer[5], answer[8]]

    run(test())


def test_an_answer_longer_than_its_context_has_no_guesses(smollm2: Path) -> None:
    async def test() -> None:
        process = small(smollm2, context=16)
        async with process.kept():
            await here(process)
            guesser = process.model.open()
            assert await guesser.guess([100] * 15, 0) is not None
            assert await guesser.guess([100] * 16, 0) is None
            assert await process.model.open().guess([100] * 1000, 0) is None

    run(test())


def test_while_there_is_no_process_there_are_no_guesses() -> None:
    async def test() -> None:
        process = scripted(COUNTS)
        guesser = process.model.open()
        assert await guesser.guess(PROMPT, 0) is None
        async with process.kept():
            await here(process)
            assert await guesser.guess(PROMPT, 0) == 3
        assert await guesser.guess(PROMPT, 0) is None
        guesser.close()

    run(test())


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals.")
@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGTERM])
def test_a_process_that_is_killed_in_the_middle_of_an_answer_is_started_again(
    smollm2: Path, sign: signal.Signals, caplog: pytest.LogCaptureFixture
) -> None:
    async def test() -> None:
        process = small(smollm2)
        async with process.kept():
            first = await here(process)
            guesser = process.model.open()
            before = await guesser.guess(PROMPT, 0)
            waiting = asyncio.create_task(guesser.guess([100] * 500, 0))
            await asyncio.sleep(0)
            os.kill(first, sign)
            assert await waiting is None
            await until(lambda: process.model.is_here and process.pid != first)
            assert await guesser.guess(PROMPT, 0) == before
            assert not psutil.pid_exists(first)

    run(test())
    assert [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING] == [
        "SmolLM2-135M-Instruct.Q4_1 does not guess now, because its process has ended. It is tried again in 0 s."
    ]


NONSENSE = {
    "a token that there is not": ("say(Guessed(1, 1, 50))", "token 50"),
    "a token below all": ("say(Guessed(1, 1, -1))", "token -1"),
    "no frame": ("out.write(bytes([0, 0, 0, 1, 1])); out.flush()", "understood"),
    "far too much": ("out.write(b'!' * 99); out.flush()", "at once"),
    "loaded twice": ("say(Loaded())", "twice"),
    "broken later": ("say(Broken('It broke.'))", "cannot run any more: It broke."),
    "more than it was asked": ("for _ in range(99): say(Guessed(99, 1, 1))", "more than it was asked"),
    "life of which nobody asked for a sign": ("for _ in range(99): say(Pong())", "more than it was asked"),
    "death": ("sys.exit()", "its process has ended"),
    "no life": ("receive(pipe)", "does not answer"),
}
"""What the process does when it is asked for guesses, and what is said of it."""


@pytest.mark.parametrize("kind", NONSENSE)
def test_a_process_of_no_use_is_replaced_with_a_warning_each_time(
    kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The third process is a good one."""
    body, told = NONSENSE[kind]
    count = tmp_path / "count"
    turns = f"""
with open({str(count)!r}, "ab") as file:
    file.write(b".")
if os.path.getsize({str(count)!r}) > 2:
{"".join(f"    {line}{chr(10)}" for line in COUNTS.splitlines())}    sys.exit()
"""

    async def test() -> None:
        patience = Patience(load=100.0, answer=1.0 if kind == "no life" else 100.0)
        process = scripted(f"{turns}say(Loaded())\nreceive(pipe)\n{body}\ntime.sleep(10000)", patience)
        async with process.kept():
            guesser = process.model.open()
            token = None
            while token is None:
                token = await guesser.guess(PROMPT, 0)
                await asyncio.sleep(0.01)
            assert token == 3

    run(test())
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) >= 2
    assert all(told in warning for warning in warnings), warnings


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("say(Guessed(1, 1, 1))", "it begins with what nobody asked for"),
        ("say(Broken('It is broken.'))", "it cannot run: It is broken."),
        ("sys.exit(3)", "its process has ended"),
        ("time.sleep(10000)", "it takes too long to load"),
    ],
)
def test_a_process_that_cannot_begin_is_told_of(body: str, told: str, caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        process = scripted(body, Patience(load=3.0 if "sleep" in body else 100.0), pause_s=100.0)
        async with process.kept():
            await until(lambda: bool(caplog.records))
            assert await process.model.open().guess(PROMPT, 0) is None

    run(test())
    assert f"Toy does not guess now, because {told}" in caplog.records[0].getMessage()


def test_the_pauses_before_it_is_tried_again_grow_and_are_bounded(caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        process = GuesserProcess(SmallModel("Toy", context=9, vocabulary=9), ["/no/such/program"], Pauses(0.6, 2.0))
        async with process.kept():
            await until(lambda: len(caplog.records) >= 4)

    run(test())
    told = [record.getMessage() for record in caplog.records[:4]]
    assert "because it cannot be started (No such file or directory)." in told[0]
    assert [line.rpartition(" in ")[2] for line in told] == ["1 s.", "1 s.", "2 s.", "2 s."]


def test_who_waits_for_a_guess_may_be_cancelled_and_ask_for_another() -> None:
    async def test() -> None:
        process = scripted(COUNTS)
        async with process.kept():
            await here(process)
            guesser = process.model.open()
            for length in range(3, 40):
                waiting = asyncio.create_task(guesser.guess([1] * length, 1))
                await asyncio.sleep(0)
                waiting.cancel()
            assert await guesser.guess([1] * 40, 2) == 40
            assert await guesser.guess([1] * 39, 1) == 39

    run(test())


def test_who_waits_for_a_guess_when_the_answer_ends_has_none() -> None:
    async def test() -> None:
        process = scripted("say(Loaded())\nwhile receive(pipe) is not None:\n    pass")
        async with process.kept():
            await here(process)
            guesser = process.model.open()
            waiting = asyncio.create_task(guesser.guess(PROMPT, 0))
            await asyncio.sleep(0)
            guesser.close()
            assert await waiting is None
            assert await guesser.guess(PROMPT, 0) is None

    run(test())


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signal.")
def test_it_ends_with_its_parent_however_that_ends(smollm2: Path) -> None:
    manifest = open_model(smollm2)
    order = Order(str(smollm2), manifest.layers, Capacity(2, 512, 64), 1, manifest.vocabulary)
    parent = f"""
import subprocess, sys
child = subprocess.Popen([sys.executable, "-m", "potluck.node.guesser", {msgspec.json.encode(order).decode()!r}],
    stdin=subprocess.PIPE, stdout=subprocess.PIPE)
child.stdout.read(1)
print(child.pid, flush=True)
child.stdin.write({framed(Follow(1, 1, 0, [100] * 400, 500))!r})
child.stdin.flush()
child.wait()
"""
    process = subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    with process.stdout as told:
        child = psutil.Process(int(told.readline()))
        process.kill()
        process.wait()
        eventually(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)
