"""Hostile frames: the code that reads them may raise nothing but WireError, and its memory must stay bounded.

    python benchmarks/fuzz.py [--inputs 1000000] [--seed 0] [--memory 256]

The corpus holds every kind of message with payloads of every form. The benchmark damages them: it flips bits, cuts out,
doubles and splices pieces, and makes lengths that lie, deep nesting, numbers that are too large or NaN, and fields of
other types. All code that reads frames and payloads gets each frame. A message that is read must stay the same when it
is written and read again. The same seed makes the same frames. At the first frame that raises anything else, the
benchmark prints it and ends with an error. --memory is how many MiB the process may take beyond what it has at the
start.
"""

from __future__ import annotations

import resource
import struct
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from random import Random
from typing import TypeVar, get_args

import msgspec
import numpy as np
import psutil
from msgspec import inspect

from bench.record import Measure
from bench.report import Report, options_parser
from potluck.coordinator.relay.candidates import Candidates
from potluck.errors import WireError
from potluck.types import RowFormat
from potluck.wire.codec import check_version, decode_from_coordinator, decode_from_node, encode
from potluck.wire.message import Message
from potluck.wire.messages import (
    PROTOCOL_VERSION,
    AnyMessage,
    Exported,
    FromCoordinator,
    FromNode,
    Hidden,
    Import,
    Scores,
    Step,
)
from potluck.wire.parts import Parts
from potluck.wire.rows import check_finite, pack_ids, pack_rows, pack_scores, unpack_ids, unpack_rows, unpack_scores

WIDTH, VOCABULARY = 2, 10
LENGTH = struct.Struct("<I")
MIB = 1 << 20

SECONDS, GROWN = Measure("time", "s"), Measure("growth of the process", "MiB")

T = TypeVar("T")

Decode = Callable[[bytes], tuple[FromNode | FromCoordinator, memoryview]]

Parted = tuple[bytes, bytes]
"""A frame's header and payload."""


# The corpus


def example(kind: inspect.Type, size: int) -> object:
    """A value of this type. Size 0 stands for the least one."""
    match kind:
        case inspect.BoolType():
            return bool(size)
        case inspect.IntType():
            return size
        case inspect.FloatType():
            return size / 4
        case inspect.StrType():
            return "anna ü"[: 2 * size]
        case inspect.BytesType():
            return b"\xff\0" * 16 * size
        case inspect.EnumType(cls):
            return list(cls)[min(size, len(cls) - 1)]
        case inspect.VarTupleType(item):
            return (example(item, size),) * size
        case inspect.UnionType(types):
            return example(types[-1 if size else 0], size)
        case inspect.NoneType():
            return None
        case inspect.StructType(cls, fields):
            return cls(**{field.name: example(field.type, size) for field in fields})
        case _:
            raise TypeError(f"No example of {kind}.")


def payloads() -> list[bytes]:
    rows = np.ones((3, WIDTH), np.float32)
    one = (np.array([4], np.int32), np.array([-0.5], np.float32), 2.0)
    forms = [pack_rows(rows, form) for form in RowFormat]
    return [b"", *forms, pack_ids(np.array([1, 2, 3], np.int32)), pack_scores([one]), pack_scores([one] * 3)]


def corpus() -> list[Parted]:
    """Every kind of message in three sizes, each with every payload."""
    kinds = [inspect.type_info(kind) for kind in get_args(AnyMessage)]
    headers = [msgspec.msgpack.encode(example(kind, size)) for kind in kinds for size in (0, 1, PROTOCOL_VERSION)]
    return [(header, payload) for header in headers for payload in payloads()]


# The damage

VALUES: list[object] = [
    *(0, -1, 2**31, 2**63, 2**64 - 1, -(2**63), float("nan"), float("inf"), -float("inf"), 1e308, 5e-324),
    *(None, True, "", "x" * 300, "hello", "hidden", b"", bytes(300), [], {}, [[]], [0] * 300, [[0] * 3] * 100),
    *({"first": 5, "last": 2}, {"first": 0, "last": 2**63}, {"kind": "hidden"}, [None], ["hello", 3]),
]

TOKENS = [
    *(b"\xc0", b"\xc1", b"\xc2", b"\xc3", b"\xff", b"\x80", b"\x90", b"\xa0", b"\xcb\x7f\xf8\0\0\0\0\0\0"),
    *(b"\xcf" + b"\xff" * 8, b"\xd3\x80" + b"\0" * 7, b"\xca\x7f\x80\0\0", b"\xd9\xff", b"\xda\xff\xff"),
    *(b"\xdb\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff", b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff"),
    *(b"\xc9\xff\xff\xff\xff\1", b"\xd6\xff\0\0\0\0", b"\xc7\x0c\xff" + b"\xff" * 12),
    *(b"\x91" * 1200, b"\x81\xa0" * 1200),
    *(b"\xdc\4\0" + b"\0" * 1024, b"\xed\xa0\x80", b"\xa4kind", b"\xa5hello", b"\xc4\xff"),
]

LENGTHS = [0, 1, 2**31 - 1, 2**31, 2**32 - 1]


class Mutator:
    """Makes damaged frames from a corpus, the same ones with the same seed."""

    def __init__(self, frames: list[Parted], seed: int) -> None:
        self._frames = frames
        self._random = Random(seed).random
        self._of_payload = [self._flip, self._cut, self._double, self._splice]
        self._of_header = [*self._of_payload, self._insert, self._set_field, self._set_field]

    def frame(self) -> bytes:
        header, payload = self._one_of(self._frames)
        for _ in range(self._one_of((0, 1, 1, 1, 2, 4))):
            header = self._one_of(self._of_header)(header)
        if self._random() < 0.4:
            payload = self._one_of(self._of_payload)(payload)
        length = len(header) if self._random() < 0.95 else self._one_of((*LENGTHS, len(header) + 1, len(payload)))
        frame = LENGTH.pack(length) + header + payload
        return frame if self._random() < 0.97 else frame[: self._place(frame)]

    def _one_of(self, options: Sequence[T]) -> T:
        """One of the options. This is several times as fast as `Random.choice`, and less even."""
        return options[int(self._random() * len(options))]

    def _place(self, data: bytes) -> int:
        return int(self._random() * (len(data) + 1))

    def _flip(self, data: bytes) -> bytes:
        if not data:
            return data
        flipped = bytearray(data)
        for _ in range(self._one_of((1, 1, 2, 8))):
            flipped[int(self._random() * len(data))] ^= 1 << int(self._random() * 8)
        return bytes(flipped)

    def _cut(self, data: bytes) -> bytes:
        start = self._place(data)
        return data[:start] + data[start + self._one_of((1, 1, 4, 1000)) :]

    def _double(self, data: bytes) -> bytes:
        start, end = self._place(data), self._place(data)
        return data[:end] + data[start:]

    def _splice(self, data: bytes) -> bytes:
        other = self._one_of(self._one_of(self._frames))
        return data[: self._place(data)] + other[self._place(other) :]

    def _insert(self, data: bytes) -> bytes:
        start, token = self._place(data), self._one_of(TOKENS)
        return data[:start] + token + data[start + self._one_of((0, 1, len(token))) :]

    def _set_field(self, header: bytes) -> bytes:
        """Change the value of a field, or add one. Bytes that are no longer a message stay as they are."""
        try:
            fields = msgspec.msgpack.decode(header, type=dict[str, object])
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return header
        fields[self._one_of((*fields, "extra"))] = self._one_of(VALUES)
        return msgspec.msgpack.encode(fields)


# The readers


class Readers:
    """Gives a frame to everything that reads frames, and counts what was read and what was refused."""

    def __init__(self) -> None:
        self.read: Counter[str] = Counter()
        self._parts = Parts()

    def __call__(self, frame: bytes) -> None:
        """Read the frame in every way. Raises whatever comes out and is not a WireError."""
        self._try("first frame", check_version, frame)
        for decode in (decode_from_node, decode_from_coordinator):
            if read := self._try("header", decode, frame):
                message, payload = read
                check_same(decode, message)
                self._try(type(message).__name__, self._payload, message, payload)

    def _try(self, name: str, read: Callable[..., T], *arguments: object) -> T | None:
        try:
            result = read(*arguments)
        except WireError:
            self.read[f"{name} refused"] += 1
            return None
        self.read[name] += 1
        return result

    def _payload(self, message: Message, payload: memoryview) -> None:
        """Read the payload as the relay and the nodes do."""
        match message:
            case Hidden(rows=rows) | Step(rows=rows):
                for form in RowFormat:
                    self._try("rows", self._rows, payload, rows, form)
                self._try("ids", unpack_ids, payload, rows)
            case Scores(counts=counts):
                for ids, scores, total in unpack_scores(payload, counts):
                    Candidates.checked(ids, scores, VOCABULARY, total)
            case Exported(left=left) | Import(left=left):
                self._part(left, payload)

    def _rows(self, payload: memoryview, rows: int, form: RowFormat) -> None:
        unpack_rows(payload, rows, WIDTH, form)
        check_finite(payload, rows, form)

    def _part(self, left: int, payload: memoryview) -> None:
        parts, self._parts = self._parts, Parts()
        if parts.add(left, payload) is None:
            self._parts = parts


def check_same(decode: Decode, message: Message) -> None:
    """Raises ValueError if a message changes when it is written and read again.

    Bytes are compared, because NaN does not equal itself.
    """
    again = encode(message)
    if encode(decode(again)[0]) != again:
        raise ValueError(f"{message} changes when it is read again.")


# The run


def bound_memory(more: int) -> None:
    """Let this process take so many bytes more than now. Beyond them it gets a MemoryError."""
    if sys.platform == "linux":
        limit = psutil.Process().memory_info().vms + more
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def fuzz(inputs: int, seed: int, readers: Callable[[bytes], None]) -> None:
    """Give the readers so many frames. Raises what they raise, with the frame as a note."""
    mutator = Mutator(corpus(), seed)
    for number in range(inputs):
        frame = mutator.frame()
        try:
            readers(frame)
        except BaseException as error:
            error.add_note(f"Input {number} of seed {seed}: bytes.fromhex({frame[:10_000].hex()!r})")
            raise


def main() -> None:
    parser = options_parser(__doc__)
    parser.add_argument("--inputs", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--memory", type=int, default=256, help="MiB that the process may take beyond what it has at the start"
    )
    options = parser.parse_args()
    report = Report("fuzz", options)
    bound_memory(options.memory * MIB)
    readers, begin, before = Readers(), time.perf_counter(), psutil.Process().memory_info().rss
    fuzz(options.inputs, options.seed, readers)
    seconds, grown = time.perf_counter() - begin, (psutil.Process().memory_info().rss - before) / MIB
    case = f"{options.inputs:,}"
    report.add({"damaged frames": [SECONDS.of(case, seconds), GROWN.of(case, grown)]})
    report.finish(
        inputs=options.inputs,
        seed=options.seed,
        seconds=seconds,
        grown_mib=grown,
        read=dict(readers.read.most_common()),
    )


if __name__ == "__main__":
    main()
