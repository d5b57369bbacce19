"""The grammar of an answer that the model may think before: first any text up to the mark, then the prescribed form."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from potluck.coordinator.text.thinking import Marks

_ANSWER = "answer"
_ANY = r"/(.|\n)*/"
_SPACES = r"/[ \n]{0,4}/"
"""What may stand between the mark and the answer. Without a limit, a small model would never begin."""


def after_thinking(source: str, marks: Marks, controls: Mapping[str, int], *, is_open: bool) -> str:
    """The grammar with this source, after thinking. controls: the control tokens by their text.

    is_open: the prompt has opened the thinking, which must therefore be closed; otherwise the model need not think.
    """
    turn, head = marks.heads[:2] if marks.heads else ("", "")
    begin, close, final = (_terms(text, controls) for text in (marks.begin, f"{marks.end}{turn}", head))
    thought, rule = "thought " + close, f"thought: {_ANY}"
    if marks.end not in controls:
        thought, rule = f"thought {_terms(turn, controls)}", f"thought[suffix={_quoted(marks.end)}]: {_ANY}"
    opening = thought if is_open else f"({begin} {thought})?"
    lark = f"start: {opening} {final} spaces @{_ANSWER}\n{rule}\nspaces: {_SPACES}\n"
    first, *others = _parts(source)
    return json.dumps({"grammars": [{"lark_grammar": lark}, {**first, "name": _ANSWER}, *others]})


def _parts(source: str) -> list[dict[str, Any]]:
    """The grammars of a source, which is a list of them in llguidance's JSON, or Lark. The first one is the whole."""
    parts: list[dict[str, Any]] = (
        json.loads(source)["grammars"] if source.lstrip().startswith("{") else [{"lark_grammar": source}]
    )
    return parts


def _terms(text: str, controls: Mapping[str, int]) -> str:
    """A text in Lark, in which control tokens stand by their numbers."""
    names = [name for name in controls if name in text]
    parts = re.split("|".join(f"({re.escape(name)})" for name in sorted(names, key=len, reverse=True)) or "$^", text)
    return " ".join(f"<[{controls[part]}]>" if part in controls else _quoted(part) for part in parts if part)


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
