"""The grammar of an answer in a prescribed form: llguidance says which tokens a JSON schema allows next."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from functools import cached_property
from hashlib import sha256
from typing import Any

import numpy as np
from llguidance import LLMatcher, LLTokenizer, TokenizerWrapper

from potluck.coordinator.generation.preface import after_thinking
from potluck.coordinator.generation.structure import Structure
from potluck.coordinator.generation.trial import is_quick
from potluck.coordinator.recent import Recent
from potluck.coordinator.text.calls.dialect import Dialect, literal
from potluck.coordinator.text.controls import Controls
from potluck.coordinator.text.thinking import Marks
from potluck.coordinator.text.tokenizer import Tokenizer
from potluck.errors import RequestError
from potluck.types import ANY_NUMBER
from potluck.wire.rows import Ids

_MOST_KNOWN = 1000

_MOST_FORCED = 1 << 15
"""The most characters in a row that a schema may leave no choice about. They are all looked at for each token."""
_FIRST_FORCED = 512
"""The characters of them that are tokenized, because only their first token comes next. Words are shorter."""
_LONGEST_REASON = 300
_LONGEST_SOURCE = 1 << 18
"""The most characters of a grammar. llguidance refuses most schemas that are as long, but not at once."""


class _Forced(threading.local):
    """The length of the text that must come, as the matcher that is asked on this thread finds out."""

    length = 0


class _Vocabulary:
    """A tokenizer as llguidance wants it, with those of its tokens that the model has: the first `most` at most.

    If no token ends an answer, one token beyond the model's own stands in for it.
    """

    bos_token_id = None

    def __init__(self, tokenizer: Tokenizer, most: int) -> None:
        pieces = [tokenizer.piece(token) for token in range(min(tokenizer.vocabulary, most))]
        self.special_token_ids = [token for token, piece in enumerate(pieces) if not piece]
        self.tokens = [piece or tokenizer.piece(token, special=True) for token, piece in enumerate(pieces)] + [b""]
        self.end_ids = sorted(token for token in tokenizer.stop_ids if token < len(pieces)) or [len(pieces)]
        self.eos_token_id = self.end_ids[0]
        self.size = len(pieces)
        self.forced = _Forced()
        self._tokenizer = tokenizer

    def __call__(self, text: str) -> list[int]:
        """The tokens of a text that must come, or the first of them."""
        self.forced.length = len(text)
        text = text[:_FIRST_FORCED]
        tokens = self._tokenizer.encode(text, special=False, bos=False)
        return tokens if max(tokens, default=0) < self.size else self._spelled(text.encode())

    def _spelled(self, text: bytes) -> list[int]:
        """Tokens of the model's that spell the text, or as much of it as they can, because the tokenizer's do not."""
        tokens, longest = list[int](), max(map(len, self._by_text), default=0)
        while length := next((end for end in range(longest, 0, -1) if text[:end] in self._by_text), 0):
            tokens.append(self._by_text[text[:length]])
            text = text[length:]
        return tokens

    @cached_property
    def _by_text(self) -> dict[bytes, int]:
        """The model's tokens that stand for a text."""
        special = frozenset(self.special_token_ids)
        return {piece: token for token, piece in enumerate(self.tokens[: self.size]) if token not in special}


class Constraint:
    """The constraint of one answer. `accept` every token of it."""

    def __init__(self, matcher: LLMatcher, vocabulary: _Vocabulary, param: str) -> None:
        self._matcher = matcher
        self._vocabulary = vocabulary
        self._param = param

    def allowed(self) -> Ids:
        """The tokens that may come next, ascending, including those that end an answer if it may end here.

        Raises RequestError when this takes too long to find out.
        """
        self._vocabulary.forced.length = 0
        bits = np.unpackbits(np.frombuffer(self._matcher.compute_bitmask(), np.uint8), bitorder="little")
        if self._matcher.is_error():
            raise _unusable(self._matcher.get_error(), self._param)
        if self._vocabulary.forced.length > _MOST_FORCED:
            raise _unusable(f"it demands a text of more than {_MOST_FORCED} characters", self._param)
        return np.flatnonzero(bits[: self._vocabulary.size]).astype(np.int32)

    def accept(self, token: int) -> None:
        self._matcher.consume_token(token)

    @property
    def is_complete(self) -> bool:
        """Whether nothing but the end can come."""
        return self._matcher.is_stopped()

    def copy(self) -> Constraint:
        """A constraint at the same place, which other tokens may follow."""
        return Constraint(self._matcher.deep_copy(), self._vocabulary, self._param)


class Grammar:
    """A form that answers can have, with its source. param: the field of the request that asked for it."""

    def __init__(self, matcher: LLMatcher, vocabulary: _Vocabulary, source: str, param: str) -> None:
        self.source = source
        self.param = param
        self._matcher = matcher
        self._vocabulary = vocabulary

    def start(self) -> Constraint:
        """The constraint of a new answer."""
        return Constraint(self._matcher.deep_copy(), self._vocabulary, self.param)


class Grammars:
    """Makes grammars for one tokenizer, whose first `most` tokens the model has at most. controls: those among them.

    That may take seconds: do it on threads.
    """

    def __init__(self, tokenizer: Tokenizer, most: int = ANY_NUMBER, controls: Controls | None = None) -> None:
        self._tokenizer = tokenizer
        self._most = most
        self._controls = controls or Controls(tokenizer, most)
        self._quick = Recent[bytes, bool](lambda: False, _MOST_KNOWN)
        """Whether a source, by its hash, was made in time before."""

    @cached_property
    def _vocabulary(self) -> _Vocabulary:
        return _Vocabulary(self._tokenizer, self._most)

    @cached_property
    def _tokens(self) -> LLTokenizer:
        return LLTokenizer(TokenizerWrapper(self._vocabulary), eos_token=self._vocabulary.end_ids)

    def of(self, structure: Structure) -> Grammar:
        """The grammar of answers with this structure. This takes a while. Raises RequestError when it is not
        understood.
        """
        return self._of(structure.grammar(), structure.param)

    def of_calls(self, dialect: Dialect, tools: Mapping[str, dict[str, Any]], *, several: bool) -> Grammar:
        """The grammar of a call, or several, of these tools, each with a schema of its arguments. Raises as `of`
        does.
        """
        try:
            source, as_text = (
                LLMatcher.grammar_from_lark(dialect.lark(tools, quote, several=several))
                for quote in (self._quoted, literal)
            )
        except (ValueError, RecursionError) as error:
            raise RequestError("The parameters are nested too deeply.", param="tools") from error
        return self._of(source, "tools", as_text)

    def _quoted(self, mark: str) -> str:
        """A mark in a grammar: the control token that the vocabulary has for it, or else its text."""
        token = self._controls.named(mark)
        return literal(mark) if token is None else f"<[{token}]>"

    def after_thinking(self, grammar: Grammar, marks: Marks, *, is_open: bool) -> Grammar:
        """The same form for what follows thinking. is_open: the prompt has opened it."""
        return self._of(after_thinking(grammar.source, marks, self._controls.ids, is_open=is_open), grammar.param)

    def _of(self, source: str, param: str, as_text: str | None = None) -> Grammar:
        """as_text: the source for the trial, which knows no vocabulary, where the source has control tokens."""
        if len(source) > _LONGEST_SOURCE:
            raise RequestError(f"The structure is longer than {_LONGEST_SOURCE} characters.", param=param)
        if not self._is_quick(as_text or source):
            raise RequestError("The structure takes too long to compile: use fewer patterns.", param=param)
        matcher = LLMatcher(self._tokens, source, log_level=0)
        if matcher.is_error():
            raise _unusable(matcher.get_error(), param)
        grammar = Grammar(matcher, self._vocabulary, source, param)
        grammar.start().allowed()  # what cannot begin is refused here, and not where answers are made
        return grammar

    def _is_quick(self, source: str) -> bool:
        """Whether the grammar is made in time, as a trial tells, or a trial before."""
        digest = sha256(source.encode()).digest()
        known = self._quick.get(digest)
        if known is not None:
            return known
        tried = is_quick(source)
        if tried is not None:
            self._quick[digest] = tried
        return bool(tried)


def _unusable(error: str, param: str) -> RequestError:
    text = error.partition("<state>")[0]  # what follows repeats the grammar, which may be megabytes
    reason = " ".join(text[:_LONGEST_REASON].split()).rstrip(".")
    return RequestError(f"This structure cannot be enforced: {reason}.", param=param)
