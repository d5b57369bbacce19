"""The form of completions: their JSON, with the place of every token in the text."""

from __future__ import annotations

import codecs
from collections.abc import Collection
from functools import partial
from typing import NamedTuple

from potluck.coordinator.generation.job import Delta, Scored
from potluck.coordinator.http.identities import Identities
from potluck.coordinator.http.replies import BaseForm, Json
from potluck.coordinator.text.tokenizer import Tokenizer

_utf8 = partial(codecs.getincrementaldecoder("utf-8"), "replace")


class Echo(NamedTuple):
    """The prompt that a choice repeats before its answer: its text, and how many tokens of it are scored."""

    text: str = ""
    scored: int = 0


class CompletionForm(BaseForm):
    """The form of completions. echoes: for each choice, what it repeats. shown: control tokens that answers show.

    identities: the answer's.
    """

    def __init__(
        self,
        model: str,
        tokenizer: Tokenizer,
        logprobs: bool,
        echoes: list[Echo],
        shown: Collection[int] = frozenset(),
        identities: Identities | None = None,
    ) -> None:
        super().__init__(model, tokenizer, logprobs, identities or Identities.fresh())
        self._echoes, self._shown = echoes, shown
        self._offsets: dict[int, _Offsets] = {}

    def head(self, *, chunk: bool) -> Json:
        return self._head("cmpl", "text_completion")

    def opening(self, index: int) -> list[Json]:
        echo = self._echoes[index].text
        return [self._json(index, echo, None, None)] if echo else []

    def chunk(self, index: int, delta: Delta) -> Json:
        return self._json(index, delta.text, self.logprobs_of(index, delta.tokens), delta.finish)

    def choice(self, index: int, deltas: list[Delta]) -> Json:
        text = self._echoes[index].text + "".join(delta.text for delta in deltas)
        tokens = [token for delta in deltas for token in delta.tokens]
        return self._json(index, text, self.logprobs_of(index, tokens), deltas[-1].finish)

    def _json(self, index: int, text: str, logprobs: Json | None, finish: str | None) -> Json:
        return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": finish}

    def logprobs_of(self, index: int, tokens: list[Scored]) -> Json | None:
        if not self.logprobs:
            return None
        offsets = self._offsets.setdefault(index, _Offsets(self._echoes[index].scored))
        return {
            "tokens": [self._token(scored.token) for scored in tokens],
            "token_logprobs": [scored.logprob for scored in tokens],
            "top_logprobs": [self._top(scored) for scored in tokens],
            "text_offset": [self._offset(offsets, scored.token) for scored in tokens],
        }

    def _token(self, token: int) -> str:
        text, piece = super()._token(token), self.tokenizer.piece(token, special=True)
        return text if text.encode() == piece else f"bytes:{text}"

    def _top(self, scored: Scored) -> dict[str, float] | None:
        """The alternatives by their text, the likelier of two that look alike; null for a prompt's first token."""
        if scored.logprob is None:
            return None
        return {self._token(token): logprob for token, logprob in reversed(scored.top)}

    def _offset(self, offsets: _Offsets, token: int) -> int:
        return offsets.pass_by(self.tokenizer.piece(token, special=offsets.in_prompt or token in self._shown))


class _Offsets:
    """The places of a choice's tokens in its text, in characters. prompt: how many tokens of the prompt come first."""

    def __init__(self, prompt: int) -> None:
        self._prompt = prompt
        self._count = 0
        self._decoder = _utf8()

    @property
    def in_prompt(self) -> bool:
        return self._prompt > 0

    def pass_by(self, piece: bytes) -> int:
        """The number of characters before the next token, which has these bytes. One that continues a character begins
        where the character does.
        """
        offset = self._count
        self._count += len(self._decoder.decode(piece))
        if self.in_prompt:
            self._prompt -= 1
            if not self.in_prompt:  # the text of the answer does not complete a character of the prompt's
                self._count += len(self._decoder.decode(b"", final=True))
        return offset
