import struct
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from potluck.errors import WireError
from potluck.types import Attention, Coordinator, EngineKind, Outlook, Prospect, Quantize, RowFormat, Span
from potluck.wire.codec import decode_from_coordinator, decode_from_node, encode
from potluck.wire.message import Message
from potluck.wire.messages import AnyMessage, FromCoordinator, FromNode, Step, Welcome

integers = st.integers(-(2**63), 2**64 - 1)
spans = st.tuples(st.integers(0, 2**40), st.integers(0, 2**40)).map(lambda pair: Span(min(pair), max(pair)))
floats = st.floats(allow_nan=False)
st.register_type_strategy(int, integers)
st.register_type_strategy(float, floats)
st.register_type_strategy(Span, spans)
rates = st.floats(0.0, allow_infinity=False)
st.register_type_strategy(Outlook, st.builds(Outlook, st.lists(spans, max_size=3).map(tuple), rates, rates))


def values(kind: type[Message]) -> st.SearchStrategy[Message]:
    return st.builds(kind, **{field.name: st.from_type(field.type) for field in msgspec.structs.fields(kind)})


def frame(header: object) -> bytes:
    data = msgspec.msgpack.encode(header)
    return struct.pack("<I", len(data)) + data


@given(st.one_of([values(kind) for kind in get_args(FromNode)]), st.binary(max_size=20))
def test_every_message_of_a_node_comes_back(message: Message, payload: bytes) -> None:
    back, rest = decode_from_node(encode(message, payload))
    assert type(back) is type(message)
    assert back == message
    assert bytes(rest) == payload


@given(st.one_of([values(kind) for kind in get_args(FromCoordinator)]), st.binary(max_size=20))
def test_every_message_of_a_coordinator_comes_back(message: Message, payload: bytes) -> None:
    back, rest = decode_from_coordinator(encode(message, payload))
    assert type(back) is type(message)
    assert back == message
    assert bytes(rest) == payload


def test_steps_and_welcomes_have_these_bytes() -> None:
    """Nodes of earlier releases read them."""
    step = Step(session=7, route=2, step=3, position=5, rows=1, last=11, top=4, asks=((9,),), stages=3, keep=True)
    assert encode(step) == (
        b"R\0\0\0\x8b\xa4kind\xa4step\xa7session\x07\xa5route\x02\xa4step\x03\xa8position\x05\xa4rows\x01"
        b"\xa4last\x0b\xa3top\x04\xa4asks\x91\x91\x09\xa6stages\x03\xa4keep\xc3"
    )
    welcome = Welcome(
        node="n1",
        model="d",
        span=Span(2, 5),
        engine=EngineKind.LLAMACPP,
        quantize=Quantize.Q8_0,
        attention=Attention.EXACT,
        rows=RowFormat.F16,
        context=64,
        ticket="t",
        peers=("http://a:1",),
        peer_token="p",
        fleet=(Coordinator("http://b:1", b"k"),),
    )
    assert encode(welcome) == (
        b"\xc1\0\0\0\x8e\xa4kind\xa7welcome\xa4node\xa2n1\xa5model\xa1d\xa4span\x82\xa5first\x02\xa4last\x05"
        b"\xa6engine\xa8llamacpp\xa8quantize\xa4q8_0\xa9attention\xa5exact\xa4rows\xa3f16\xa7context@"
        b"\xa6ticket\xa1t\xa5peers\x91\xaahttp://a:1\xaapeer_token\xa1p\xa8prospect\xc0"
        b"\xa5fleet\x91\x82\xa3url\xaahttp://b:1\xa3key\xc4\x01k"
    )


def test_the_union_is_closed_and_every_kind_has_its_own_tag() -> None:
    kinds = get_args(AnyMessage)
    assert set(kinds) == set(Message.__subclasses__())
    assert len({kind.__struct_config__.tag for kind in kinds}) == len(kinds)


@pytest.mark.parametrize("kind", get_args(AnyMessage), ids=lambda kind: kind.__name__)
@given(data=st.data())
def test_a_field_too_many_or_too_few_is_refused(kind: type[Message], data: st.DataObject) -> None:
    decode = decode_from_node if kind in get_args(FromNode) else decode_from_coordinator
    header: dict[str, Any] = msgspec.msgpack.decode(msgspec.msgpack.encode(data.draw(values(kind))))
    with pytest.raises(WireError, match="unknown field"):
        decode(frame({**header, "extra": 1}))
    for gone in (field.name for field in msgspec.structs.fields(kind) if field.required):
        with pytest.raises(WireError, match="missing required field"):
            decode(frame({name: value for name, value in header.items() if name != gone}))


@pytest.mark.parametrize("kind", get_args(AnyMessage), ids=lambda kind: kind.__name__)
@given(data=st.data())
def test_no_side_may_speak_for_the_other(kind: type[Message], data: st.DataObject) -> None:
    decode = decode_from_coordinator if kind in get_args(FromNode) else decode_from_node
    with pytest.raises(WireError, match="Invalid value"):
        decode(encode(data.draw(values(kind))))


@pytest.mark.parametrize("header", [{}, {"kind": "push"}, {"kind": None}, {"kind": 1}, {"session": 1}, [], 7, "hidden"])
def test_an_unknown_kind_is_refused(header: object) -> None:
    for decode in (decode_from_node, decode_from_coordinator):
        with pytest.raises(WireError, match="malformed"):
            decode(frame(header))


@pytest.mark.parametrize("wrong", [None, "1", 1.5, True, [1], {}])
def test_a_field_of_another_type_is_refused(wrong: object) -> None:
    with pytest.raises(WireError):
        decode_from_node(frame({"kind": "hidden", "session": wrong, "route": 1, "step": 1, "rows": 1}))
    with pytest.raises(WireError):
        decode_from_node(frame({"kind": "scores", "session": 1, "route": 1, "step": 1, "counts": [1, wrong]}))


@pytest.mark.parametrize(
    "change",
    [
        {"one_stream": -1.0},
        {"one_stream": float("nan")},
        {"many_streams": float("inf")},
        {"many_streams": "fast"},
        {"missing": [{"first": 3, "last": 1}]},
        {"more": 1},
    ],
    ids=str,
)
def test_an_outlook_that_cannot_be_is_refused(change: dict[str, Any]) -> None:
    outlook = Outlook((Span(0, 1),), 1.0, 2.0)
    welcome = Welcome(
        node="n",
        model="d",
        span=Span(0, 1),
        engine=EngineKind.LLAMACPP,
        quantize=Quantize.NONE,
        attention=Attention.EXACT,
        rows=RowFormat.F32,
        context=64,
        prospect=Prospect(outlook, outlook),
    )
    header = msgspec.msgpack.decode(msgspec.msgpack.encode(welcome))
    assert decode_from_coordinator(frame(header))[0] == welcome
    header["prospect"]["joined"].update(change)
    with pytest.raises(WireError):
        decode_from_coordinator(frame(header))
