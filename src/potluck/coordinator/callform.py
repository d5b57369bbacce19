"""How a model was taught to write tool calls, and the grammar of answers that are nothing but calls. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from enum import Enum
from typing import Any

Schema = dict[str, Any]

SPACES = r" |\n{1,2}[ \t]{0,20}"
"""What may stand between the parts of a JSON text; as much as it liked, a small model would never end."""


class CallForm(Enum):
    """What stands before the name, between it and the arguments, and after a call."""

    HERMES = ('<tool_call>\n{"name": ', ', "arguments": ', "}\n</tool_call>")
    LLAMA = ('{"name": ', ', "parameters": ', "}")

    @classmethod
    def of(cls, template: str) -> CallForm | None:
        """That of a chat template; None where it knows no tools, or writes calls in another way."""
        if "tools" not in template:
            return None
        if "<tool_call>" in template and re.search(r'"arguments\\*"', template):
            return cls.HERMES
        return cls.LLAMA if re.search(r'"parameters\\*"', template) and "tool_calls" in template else None

    @property
    def repeats(self) -> bool:
        """Whether an answer may hold several calls."""
        return self is CallForm.HERMES

    def grammar(self, tools: Mapping[str, Schema], *, several: bool) -> str:
        """In llguidance's dialect of Lark: one call, or several, of these tools. Each has a schema of its arguments."""
        start, middle, end = self.value
        numbered = list(enumerate(tools.items()))
        calls = " | ".join(f"call{number}" for number, _ in numbered)
        rules = ['start: one ("\\n" one)*' if several and self.repeats else "start: one", f"one: {calls}"]
        for number, (name, schema) in numbered:
            before = json.dumps(f"{start}{json.dumps(name, ensure_ascii=False)}{middle}")
            rules.append(f"call{number}: {before} arguments{number} {json.dumps(end)}")
            rules.append(
                f"arguments{number}: %json {json.dumps({**schema, 'x-guidance': {'whitespace_pattern': SPACES}})}"
            )
        return "\n".join(rules) + "\n"
