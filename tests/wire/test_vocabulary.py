"""Whether a small model's tokens are those of a large one."""

from __future__ import annotations

import msgspec
import pytest

from potluck.errors import ModelError, WireError
from potluck.wire.vocabulary import check_vocabulary, first_difference, packed, unpacked


@pytest.mark.parametrize(
    ("one", "other", "place"),
    [
        ([b"a", b"b", b"<s>"], [b"a", b"b", b"<s>"], None),
        ([b"a", b"b", b"<s>", b"c"], [b"a", b"b", b"<s>"], None),
        ([b"a", b"b"], [b"a", b"b", b"[PAD2]", b"[PAD3]"], None),
        ([b"a", b"", b"c"], [b"a", b"<unused1>", b"c"], None),
        ([b"a", b"b", b"c"], [b"a", b"c", b"b"], 1),
        ([b"a", b"b", b"<s>"], [b"a", b"b", b"<t>"], 2),
        ([b"a", b"b", b"<s>", b"c"], [b"<s>", b"a", b"b", b"c"], 0),
        ([b"a", b" b"], [b"a", b"b"], 1),
    ],
)
def test_every_id_that_both_have_stands_for_the_same(one: list[bytes], other: list[bytes], place: int | None) -> None:
    assert first_difference(one, other) == place
    assert first_difference(other, one) == place


def test_the_sentence_shows_both_tokens_whatever_their_bytes() -> None:
    with pytest.raises(ModelError) as refused:
        check_vocabulary("small", [b"a", b"\xff\x1b"], "large", [b"a", "ü".encode()])
    assert str(refused.value) == (
        "small cannot guess for large, because their vocabularies differ: "
        r"token 1 is '\\xff\x1b' for the one and 'ü' for the other."
    )


def test_a_vocabulary_comes_as_it_went() -> None:
    pieces = [b"a", b"", b"\xff", b"long " * 100]
    assert unpacked(memoryview(packed(pieces))) == pieces


@pytest.mark.parametrize("payload", [b"", b"\xc1", msgspec.msgpack.encode([1, 2]), packed([b"a"])[:-1], b"\x90\x90"])
def test_what_is_no_vocabulary_is_refused(payload: bytes) -> None:
    with pytest.raises(WireError, match="cannot be read"):
        unpacked(payload)
