"""The structure that an answer must have: what a client prescribes, before it becomes a grammar."""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import Enum
from typing import Any

from llguidance import LLMatcher
from llguidance.gbnf_to_lark import gbnf_to_lark

from potluck.coordinator.text.calls.dialect import SPACES
from potluck.errors import RequestError

_LONGEST_GBNF = 1 << 14
"""The most characters of a grammar in llama.cpp's notation, which is translated here, in time that nobody bounds."""
_LONGEST_REASON = 300


class Kind(Enum):
    """The notation of a structure."""

    SCHEMA = "schema"
    REGEX = "regex"
    CHOICE = "choice"
    GRAMMAR = "grammar"


@dataclass(frozen=True)
class Structure:
    """A structure. source: a JSON schema, a regular expression, the texts of which the answer is one, or a grammar.

    A grammar is in llama.cpp's GBNF or in llguidance's dialect of Lark. param: the field that prescribes it.
    """

    kind: Kind
    source: Any
    param: str

    def grammar(self) -> str:
        """The grammar as llguidance takes it. Raises RequestError when the structure is not understood."""
        try:
            return self._grammar()
        except (ValueError, RecursionError) as error:
            raise RequestError(f"What {self.param} prescribes is nested too deeply.", param=self.param) from error

    def _grammar(self) -> str:
        source: str
        match self.kind:
            case Kind.SCHEMA:
                schema = json.dumps(self.source)
                source = LLMatcher.grammar_from_json_schema(schema, overrides={"whitespace_pattern": SPACES})
            case Kind.REGEX:
                source = LLMatcher.grammar_from_regex(self.source)
            case Kind.CHOICE:
                source = LLMatcher.grammar_from_lark(f"start: {' | '.join(map(json.dumps, self.source))}\n")
            case Kind.GRAMMAR:
                source = LLMatcher.grammar_from_lark(self._lark())
        return source

    def _lark(self) -> str:
        text: str = self.source
        if "::=" not in text:
            return text
        if len(text) > _LONGEST_GBNF:
            message = f"A grammar in GBNF may have {_LONGEST_GBNF} characters, and this one has {len(text)}."
            raise RequestError(message, param=self.param)
        try:
            lark: str = gbnf_to_lark(text)
        except RecursionError:
            raise
        except Exception as error:  # the library raises this class itself for rules that do not exist
            raise RequestError(f"This grammar cannot be read: {_first_line(error)}.", param=self.param) from error
        return lark


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0][:_LONGEST_REASON].rstrip(".")
