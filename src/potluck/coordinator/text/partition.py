"""Splits a text at special tokens, in llama.cpp's own order but in linear time: its own split takes worse than
quadratic time. Pure.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from graphlib import TopologicalSorter
from itertools import groupby

_SPACE = b" \t\n\v\f\r"
"""What C's isspace takes for space."""

Part = int | bytes
"""A special token, or a piece of text between them, which is never empty."""


@dataclass(frozen=True, slots=True)
class SpecialToken:
    """A token that is found before the text is tokenized. text: not empty; llama.cpp gives names to empty ones.

    is_plain: found also in texts whose control tokens are to be read as plain text.
    takes_left, takes_right: swallows the space before it, or after it.
    """

    id: int
    text: bytes
    is_plain: bool = False
    takes_left: bool = False
    takes_right: bool = False


def split(text: bytes, tokens: Iterable[SpecialToken]) -> list[Part]:
    """The parts of a text. The first of the tokens is looked for everywhere, then the next in what is left, and so on.

    Of what overlaps, it therefore matters which token comes first.
    """
    parts: list[Part] = [text] if text else []
    for token in tokens:
        if token.text in text:
            parts = [part for whole in parts for part in _cut(whole, token)]
    return parts


def _cut(part: Part, token: SpecialToken) -> Iterator[Part]:
    """A part, cut at every occurrence of the token."""
    if isinstance(part, int) or token.text not in part:
        yield part
        return
    begin, end = 0, part.find(token.text)
    while end >= 0:
        left = part[begin:end]
        yield from _between(left.rstrip(_SPACE) if token.takes_left else left)
        yield token.id
        begin = end + len(token.text)
        while token.takes_right and begin < len(part) and part[begin] in _SPACE:
            begin += 1  # before the next occurrence is looked for, which may be of space
        end = part.find(token.text, begin)
    yield from _between(part[begin:])


def _between(text: bytes) -> Iterator[bytes]:
    if text:
        yield text


def in_order(tokens: Iterable[SpecialToken], encode: Callable[[bytes], Sequence[int]]) -> list[SpecialToken]:
    """The tokens in the order in which llama.cpp looks for them: the longest first.

    Its order of equally long ones is that of an unstable sort. It matters only for those that can overlap, or of which
    one swallows space of the other, and is found out by a text in which they do. encode: llama.cpp's own tokenizing,
    with control tokens.
    """
    by_length = sorted(tokens, key=lambda token: -len(token.text))
    ordered: list[SpecialToken] = []
    for _, group in groupby(by_length, key=lambda token: len(token.text)):
        members = list(group)
        before: dict[SpecialToken, set[SpecialToken]] = {token: set() for token in members}
        for one, other, text in _overlaps(members):
            found = encode(text)
            if found[:1] == [one.id]:
                before[other].add(one)
            elif found[-1:] == [other.id]:
                before[one].add(other)
        for greedy, space, text in _swallowed(members):
            first, then = (space, greedy) if space.id in encode(text) else (greedy, space)
            before[then].add(first)
        ordered += TopologicalSorter(before).static_order()
    return ordered


def _overlaps(tokens: Sequence[SpecialToken]) -> Iterator[tuple[SpecialToken, SpecialToken, bytes]]:
    """All pairs of which the first may end with the beginning of the second, each with a text in which it does so."""
    for size in range(1, len(tokens[0].text) + 1):
        heads = defaultdict[bytes, list[SpecialToken]](list)
        for token in tokens:
            heads[token.text[:size]].append(token)
        for one in tokens:
            for other in heads.get(one.text[-size:], ()):
                if one is not other:
                    yield one, other, one.text + other.text[size:]


def _swallowed(tokens: Sequence[SpecialToken]) -> Iterator[tuple[SpecialToken, SpecialToken, bytes]]:
    """All pairs of which the first would swallow space of the second, each with a text in which it stands before it.

    Between them there is space that is part of no token, so that no third one is found there.
    """
    gap = next((bytes([byte]) for byte in _SPACE if not any(byte in token.text for token in tokens)), b"")
    for greedy in tokens:
        for space in tokens:
            if greedy is not space and greedy.takes_right and space.text[0] in _SPACE:
                yield greedy, space, greedy.text + gap + space.text
            if greedy is not space and greedy.takes_left and space.text[-1] in _SPACE:
                yield greedy, space, space.text + gap + greedy.text
