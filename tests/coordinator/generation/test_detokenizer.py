from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from potluck.coordinator.generation.detokenizer import Detokenizer
from potluck.errors import RequestError


class Bytes:
    """A tokenizer whose token `i` is the i-th of the given pieces."""

    bos = eos = ""
    chat_template = None
    tool_template = None
    stop_ids: frozenset[int] = frozenset()

    def __init__(self, pieces: list[bytes]) -> None:
        self.pieces = pieces
        self.vocabulary = len(pieces)

    def encode(self, text: str, *, special: bool, bos: bool) -> list[int]:
        raise NotImplementedError

    def piece(self, token: int, *, special: bool = False) -> bytes:
        return self.pieces[token]

    def name(self, token: int) -> str:
        return self.pieces[token].decode("utf-8", "replace")


def run(pieces: list[bytes], stops: tuple[str, ...] = ()) -> tuple[list[str], str | None]:
    """What each push and the finish emit, and the stop string found."""
    stream = Detokenizer(Bytes(pieces), stops)
    emitted = [stream.push(token) for token in range(len(pieces))]
    return [*emitted, stream.finish()], stream.stopped


def cut(data: bytes, places: list[int]) -> list[bytes]:
    bounds = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[start:end] for start, end in pairwise(bounds)]


def until_stop(text: str, stops: list[str]) -> tuple[str, str | None]:
    """The definition, character by character: the first stop to be complete, the longest of those."""
    for end in range(1, len(text) + 1):
        found = [stop for stop in stops if text[:end].endswith(stop)]
        if found:
            stop = max(found, key=len)
            return text[: end - len(stop)], stop
    return text, None


def test_an_emoji_split_over_tokens_comes_out_whole() -> None:
    assert run([b"a\xf0\x9f", b"\xa5", b"\x98", b"b"]) == (["a", "", "🥘", "b", ""], None)


def test_an_unfinished_character_is_replaced_only_at_the_end() -> None:
    assert run([b"a\xf0\x9f", b"\xa5"]) == (["a", "", "\ufffd"], None)


def test_a_byte_that_begins_nothing_is_replaced() -> None:
    assert run([b"a\xff", b"b"]) == (["a\ufffd", "b", ""], None)


def test_text_waits_while_it_may_be_a_stop_string() -> None:
    assert run([b"one\n", b"\nU", b"ser", b" two"], ("\n\nUser:",)) == (["one", "", "", "\n\nUser two", ""], None)


def test_what_waits_at_the_end_comes_out() -> None:
    assert run([b"one\n"], ("\n\n",)) == (["one", "\n"], None)


def test_a_stop_string_within_a_token_ends_the_text() -> None:
    assert run([b"on", b"e STOP two", b" three"], ("STOP",)) == (["on", "e ", "", ""], "STOP")


@pytest.mark.parametrize("pieces", [[b"xabcd"], [b"xab", b"cd"], [b"x", b"a", b"b", b"c", b"d"]])
def test_the_stop_that_is_complete_first_wins_however_the_tokens_are_cut(pieces: list[bytes]) -> None:
    emitted, stopped = run(pieces, ("abcd", "bc"))
    assert ("".join(emitted), stopped) == ("xa", "bc")


def test_of_stops_that_end_together_the_longest_wins() -> None:
    assert run([b"hi\n\nUser:"], ("\nUser:", "\n\nUser:"))[0] == ["hi", ""]


def test_a_stop_string_may_be_found_at_the_finish() -> None:
    assert run([b"a\xf0"], ("\ufffd",)) == (["a", ""], "\ufffd")


def test_finish_gives_the_rest_once() -> None:
    stream = Detokenizer(Bytes([b"a"]), ["ab"])
    assert [stream.push(0), stream.finish(), stream.finish()] == ["", "a", ""]


def test_an_empty_stop_string_is_refused() -> None:
    with pytest.raises(RequestError, match="cannot be empty") as caught:
        Detokenizer(Bytes([]), ["x", ""])
    assert caught.value.param == "stop"


@given(st.text(), st.lists(st.integers(0, 999)))
def test_any_cut_of_any_text_gives_the_text_in_whole_characters(text: str, places: list[int]) -> None:
    emitted, _ = run(cut(text.encode(), places))
    assert "".join(emitted) == text
    assert "\ufffd" in text or not any("\ufffd" in part for part in emitted)


@given(st.binary(), st.lists(st.integers(0, 999)))
def test_any_cut_of_any_bytes_gives_what_decoding_them_at_once_gives(data: bytes, places: list[int]) -> None:
    assert "".join(run(cut(data, places))[0]) == data.decode("utf-8", "replace")


_FEW = st.text("ab\nü", max_size=20)


@given(_FEW, st.lists(st.integers(0, 99)), st.lists(st.text("ab\nü", min_size=1, max_size=4), max_size=3))
def test_the_text_is_cut_at_the_first_stop_whatever_the_tokens(text: str, places: list[int], stops: list[str]) -> None:
    emitted, stopped = run(cut(text.encode(), places), tuple(stops))
    assert ("".join(emitted), stopped) == until_stop(text, stops)


@given(_FEW, st.lists(st.text("ab\nü", min_size=1, max_size=4), max_size=3))
def test_nothing_waits_longer_than_it_must(text: str, stops: list[str]) -> None:
    stream = Detokenizer(Bytes([character.encode() for character in text]), stops)
    emitted = "".join(stream.push(token) for token in range(len(text)))
    waiting = "" if stream.stopped else text[len(emitted) :]
    assert not waiting or any(stop.startswith(waiting) for stop in stops)
