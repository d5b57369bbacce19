"""A newcomer's questions: each file that CONTRIBUTING.md names exists, and a search for the word finds it."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "potluck"

_ROW = re.compile(r"^\| ([^|]+\?) \| `([\w/]+\.py)` \| ([^|]+) \|$", re.MULTILINE)

QUESTIONS: list[tuple[str, str, str]] = _ROW.findall((ROOT / "CONTRIBUTING.md").read_text("utf-8"))
"""(question, file, word)"""


def test_there_are_twelve_questions_at_least() -> None:
    assert len(QUESTIONS) >= 12
    assert len({question for question, _, _ in QUESTIONS}) == len(QUESTIONS)


@pytest.mark.parametrize(("question", "file", "word"), QUESTIONS, ids=[question for question, _, _ in QUESTIONS])
def test_the_answer_is_where_the_page_says(question: str, file: str, word: str) -> None:
    docstring = ast.get_docstring(ast.parse((SOURCE / file).read_text("utf-8")))
    assert docstring is not None
    assert word.lower() in docstring.lower()


SNIPPETS = {
    "coordinator/members/schema.py": ["def revision_of(", "if unknown := set(stamps).difference(known):"],
    "commands/findings.py": [
        "Finding = Ok | Note | Wrong",
        "case Library() as library:",
        "case BrokenLibrary(reason):",
    ],
    "commands/serve.py": [
        'raise PotluckError("TLS needs a certificate and its key: give both --tls-cert and --tls-key.")',
        "listener = listen(host, port)  # before the model is read: a port in use is known at once",
    ],
}


@pytest.mark.parametrize("file", SNIPPETS)
def test_the_examples_of_style_are_in_the_code(file: str) -> None:
    page, source = (ROOT / "CONTRIBUTING.md").read_text("utf-8"), (SOURCE / file).read_text("utf-8")
    assert [line for line in SNIPPETS[file] if line not in page or line not in source] == []
