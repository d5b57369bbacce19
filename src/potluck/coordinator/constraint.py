"""Answers in a prescribed form: which tokens a JSON schema lets come next. Without I/O; llguidance knows how."""

from __future__ import annotations

import json
from functools import cached_property
from typing import Any

import numpy as np
from llguidance import LLMatcher, LLTokenizer, TokenizerWrapper

from potluck.coordinator.sampling import Ids
from potluck.coordinator.tokenizer import Tokenizer
from potluck.errors import RequestError

_SPACES = r" |\n{1,2}[ \t]{0,20}"
"""Between the parts of a JSON text; as many as it liked, a small model would never end."""


class _Vocabulary:
    """A tokenizer as llguidance wants it. One token more than the model's stands in where no token ends an answer."""

    bos_token_id = None

    def __init__(self, tokenizer: Tokenizer) -> None:
        pieces = [tokenizer.piece(token) for token in range(tokenizer.vocabulary)]
        self.special_token_ids = [token for token, piece in enumerate(pieces) if not piece]
        self.tokens = [piece or tokenizer.piece(token, special=True) for token, piece in enumerate(pieces)] + [b""]
        self.end_ids = sorted(token for token in tokenizer.stop_ids if token < len(pieces)) or [len(pieces)]
        self.eos_token_id = self.end_ids[0]
        self._tokenizer = tokenizer

    def __call__(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, special=False, bos=False)


class Constraint:
    """Of one answer. `accept` every token of it."""

    def __init__(self, matcher: LLMatcher, vocabulary: int) -> None:
        self._matcher = matcher
        self._vocabulary = vocabulary

    def allowed(self) -> Ids:
        """The tokens that may come next, ascending; those that end an answer among them where it may end.

        Raises RequestError when that takes too long to find out.
        """
        bits = np.unpackbits(np.frombuffer(self._matcher.compute_bitmask(), np.uint8), bitorder="little")
        if self._matcher.is_error():
            raise _unusable(self._matcher)
        return np.flatnonzero(bits[: self._vocabulary]).astype(np.int32)

    def accept(self, token: int) -> None:
        self._matcher.consume_token(token)

    @property
    def is_complete(self) -> bool:
        """Whether nothing but the end can come."""
        return self._matcher.is_stopped()


class Grammar:
    """A form that answers can have."""

    def __init__(self, matcher: LLMatcher, vocabulary: int) -> None:
        self._matcher = matcher
        self._vocabulary = vocabulary

    def start(self) -> Constraint:
        """For a new answer."""
        return Constraint(self._matcher.deep_copy(), self._vocabulary)


class Grammars:
    """Makes them for one tokenizer."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer

    @cached_property
    def _tokens(self) -> LLTokenizer:
        vocabulary = _Vocabulary(self._tokenizer)
        return LLTokenizer(TokenizerWrapper(vocabulary), eos_token=vocabulary.end_ids)

    def of_schema(self, schema: dict[str, Any]) -> Grammar:
        """Of JSON texts that this schema describes. Takes a while. Raises RequestError where it is not understood."""
        try:
            source = LLMatcher.grammar_from_json_schema(json.dumps(schema), overrides={"whitespace_pattern": _SPACES})
        except (ValueError, RecursionError) as error:
            raise RequestError("The schema is nested too deeply.", param="response_format") from error
        matcher = LLMatcher(self._tokens, source, log_level=0)
        if matcher.is_error():
            raise _unusable(matcher)
        return Grammar(matcher, self._tokenizer.vocabulary)


def _unusable(matcher: LLMatcher) -> RequestError:
    reason = " ".join(matcher.get_error().split()).rstrip(".")
    return RequestError(f"No answer can be made to this schema: {reason}.", param="response_format")
