import struct
from contextlib import suppress
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from potluck.errors import WireError
from potluck.types import Span
from potluck.wire.codec import MAX_FRAME, check_version, decode_from_coordinator, decode_from_node, encode
from potluck.wire.messages import PROTOCOL_VERSION, Close, Failed, Greeting, Hello, Hidden

HELLO = Hello("anna", "0.1", "", Span(0, 2), 1 << 30, 4)


def raw(header: object, payload: bytes = b"") -> bytes:
    """A frame with any header: a value for msgpack, or its bytes."""
    data = header if isinstance(header, bytes) else msgspec.msgpack.encode(header)
    return struct.pack("<I", len(data)) + data + payload


def hello(**changes: Any) -> bytes:
    return raw({**msgspec.msgpack.decode(msgspec.msgpack.encode(HELLO)), **changes})


@given(st.binary(max_size=200))
def test_the_payload_comes_back_byte_for_byte(payload: bytes) -> None:
    message, back = decode_from_node(encode(Hidden(1, 2, 3, 4, 0.0, 0.0), memoryview(payload)))
    assert message == Hidden(1, 2, 3, 4, 0.0, 0.0)
    assert bytes(back) == payload


def test_a_frame_over_the_limit_is_not_made() -> None:
    room = MAX_FRAME - len(encode(Close(1)))
    assert len(encode(Close(1), bytes(room))) == MAX_FRAME
    with pytest.raises(WireError, match=f"{MAX_FRAME + 1} bytes is over the limit"):
        encode(Close(1), bytes(room + 1))


@pytest.mark.parametrize("frame", [b"", b"\0", b"\0\0\0", struct.pack("<I", 1), struct.pack("<I", 2**32 - 1) + b"x"])
def test_a_frame_shorter_than_it_says_is_malformed(frame: bytes) -> None:
    for decode in (decode_from_node, decode_from_coordinator, check_version):
        with pytest.raises(WireError):
            decode(frame)


@given(st.binary(max_size=300))
def test_random_bytes_raise_nothing_but_wire_errors(data: bytes) -> None:
    for frame in (data, raw(data)):
        for decode in (decode_from_node, decode_from_coordinator, check_version):
            with pytest.raises(WireError):
                decode(frame)


@given(st.integers(0, 120), st.binary(min_size=1, max_size=4))
def test_a_damaged_hello_raises_nothing_but_wire_errors(place: int, damage: bytes) -> None:
    whole = bytearray(hello())
    place %= len(whole)
    whole[place : place + len(damage)] = damage
    with suppress(WireError):
        message, _ = decode_from_node(bytes(whole))
        assert isinstance(message, Hello)


@pytest.mark.parametrize(
    "span", [{"first": 5, "last": 2}, {"first": -1, "last": 2}, {"first": 0}, {"first": 0, "last": None}, [0, 1], "0-1"]
)
def test_an_impossible_span_in_a_message_is_a_wire_error(span: object) -> None:
    with pytest.raises(WireError):
        decode_from_node(hello(span=span))


def test_text_that_is_no_utf8_is_a_wire_error() -> None:
    header = msgspec.msgpack.encode(Failed(1, 1, 1, "reason")).replace(b"reason", b"re\xffson")
    with pytest.raises(WireError):
        decode_from_node(raw(header))
    with pytest.raises(WireError):
        decode_from_node(raw(msgspec.msgpack.encode(HELLO).replace(b"anna", b"\xc3\x28\xff\xff")))


def test_deep_nesting_is_a_wire_error() -> None:
    header = b"\x82\xa4kind\xa5hello\xa1x" + b"\x91" * 200_000 + b"\x01"
    for decode in (decode_from_node, decode_from_coordinator, check_version):
        with pytest.raises(WireError):
            decode(raw(header))


def test_an_integer_that_msgpack_cannot_hold_is_a_wire_error() -> None:
    with pytest.raises(WireError):
        encode(Close(2**70))


def test_the_version_is_checked_before_the_rest() -> None:
    check_version(encode(Greeting(PROTOCOL_VERSION, bytes(32))))
    for kind, version in (("greeting", 999), ("hello", 2)):  # up to version 2 the hello came first
        with pytest.raises(
            WireError, match=rf"protocol {version} and the coordinator speaks protocol {PROTOCOL_VERSION}: install the"
        ):
            check_version(raw({"kind": kind, "protocol": version, "whatever": [1, {"later": None}]}))


@pytest.mark.parametrize(
    "header",
    [
        {"kind": "ready", "protocol": PROTOCOL_VERSION},
        {"kind": "hello", "protocol": PROTOCOL_VERSION},
        {"kind": "greeting"},
        {"protocol": PROTOCOL_VERSION},
        {"kind": "greeting", "protocol": str(PROTOCOL_VERSION)},
        {"kind": "greeting", "protocol": None},
        ["greeting", PROTOCOL_VERSION],
        b"",
        b"GET / HTTP/1.1\r\n",
    ],
)
def test_a_first_frame_that_is_no_greeting_is_refused(header: object) -> None:
    with pytest.raises(WireError, match="first frame is not a greeting"):
        check_version(raw(header))


def test_what_an_error_quotes_is_short_and_harmless() -> None:
    header = msgspec.msgpack.encode({"kind": "greeting", "protocol": 3, "nonce": b"", "\x1b[2J\n" + "x" * 10_000: 1})
    with pytest.raises(WireError) as raised:
        decode_from_node(struct.pack("<I", len(header)) + header)
    assert len(str(raised.value)) < 300
    assert str(raised.value).isprintable()
