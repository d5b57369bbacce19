"""A coordinator that sends any frames: the node goes on, or ends with a sentence, and its engine survives."""

import asyncio
from contextlib import suppress
from random import Random
from typing import Any, get_args

import msgspec
import pytest

from kit.engine_bench import Bench
from kit.runner import run
from kit.toy_engine import FIRST, LAST
from potluck.errors import LinkClosed, Refused, WireError
from potluck.types import Attention, Coordinator, EngineKind, Quantize, RowFormat, Span
from potluck.wire.codec import encode
from potluck.wire.messages import Challenge, FromCoordinator, Released, Step, Welcome

FRAMES = 60

VALUES: dict[str, tuple[Any, ...]] = {
    "session": (1, 1, 2, 0, -1, 2**40),
    "route": (1, 2, 2**40),
    "step": (0, 1, -1),
    "position": (0, 0, 1, 2, -1, 2**31, 2**62),
    "rows": (1, 1, 2, 0, -1, 2**40),
    "last": (1, 3, 3, 0, -1, 2**40),
    "top": (1, 2, 0, 2**40),
    "asks": ((), (), ((),), ((1,),), ((-1,),), ((2**40,),), ((), ())),
    "stages": (1, 2, 0, 2**40),
    "keep": (False, False, True),
    "left": (0, 0, 4, -1, 2**40),
    "most": (2**20, 0, -1),
    "number": (0, 2**40),
    "text": ("Well.", ""),
    "reason": ("No.",),
    "token": ("secret", ""),
    "model": ("toy", ""),
    "context": (64, 0, -1),
    "coordinators": ((), (Coordinator("http://b:1", bytes(32)),), (Coordinator("b", b""),)),
    "fleet": ((), (Coordinator("http://b:1", bytes(32)),)),
    "url": ("http://b:1", "b"),
    "key": (bytes(32), b""),
}
PAYLOADS = (
    b"",
    b"\1\0\0\0",
    b"\1\0\0\0",
    b"\xff" * 4,
    b"\0" * 12,
    b"\0" * 12,
    b"\0" * 24,
    b"....",
    b"\0\0\xc0\x7f" * 3,
)
KINDS = [kind for kind in get_args(FromCoordinator) if kind not in (Challenge, Welcome, Released)]
ENDS = (
    encode(Released()),
    encode(
        Welcome(
            node="n",
            model="d",
            span=Span(0, 1),
            engine=EngineKind.LLAMACPP,
            quantize=Quantize.NONE,
            attention=Attention.EXACT,
            rows=RowFormat.F32,
            context=64,
        )
    ),
    encode(Challenge(b"", b"", b"")),
    b"\0",
)


def any_frame(random: Random) -> bytes:
    if random.random() < 0.01:
        return random.choice(ENDS)
    kind = Step if random.random() < 0.5 else random.choice(KINDS)
    fields = {field.name: random.choice(VALUES[field.name]) for field in msgspec.structs.fields(kind)}
    return encode(kind(**fields), random.choice(PAYLOADS))


@pytest.mark.parametrize("span", [FIRST, LAST], ids=str)
@pytest.mark.parametrize("seed", range(40))
def test_any_frames_of_a_coordinator_end_with_a_sentence_at_worst(seed: int, span: Span) -> None:
    async def test() -> None:
        random = Random(seed)
        for _ in range(FRAMES):
            bench = Bench(span)
            serving = asyncio.create_task(bench.serve())
            for _ in range(4):
                with suppress(LinkClosed):
                    await bench.link.send(any_frame(random))
                await asyncio.sleep(0)
            await bench.link.close()
            with suppress(LinkClosed, WireError, Refused):
                await serving
            assert bench.engine.lengths == {}

    run(test())
