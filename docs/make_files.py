"""Writes internals/files.md, a line for every file, from the docstrings and comments of the files: `make docs`."""

from __future__ import annotations

import ast
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "internals" / "files.md"

TREES = ("src/potluck", "benchmarks", "docs", "deploy", "native")
SUFFIXES = {".py", ".c", ".h", ".js", ".css", ".html", ".svg", ".md", ".service"}
"""Of the files that are listed; pictures and figures are not."""
SINGLE = ("Dockerfile", "Makefile", ".ci/run")

_COMMENT = re.compile(
    r"\A(?:<[?!](?!--)[^>]*>\s*|#!.*\n)*(?:/\*+\s*(.*?)\*/|<!--\s*(.*?)-->|((?:(?://|#) ?.*\n)+))", re.S
)
"""The comment with which a file begins, after its XML declaration or its interpreter."""

HEAD = """# Files

`make docs` generates this page from the first sentence of each file's docstring or comment, and a test fails when it is
out of date. [ARCHITECTURE.md](../../ARCHITECTURE.md) describes how the folders work together.
"""


def about(path: Path) -> str:
    """The first sentence of the file's docstring, first comment or title. Raises ValueError if it has none."""
    text = path.read_text("utf-8")
    match path.suffix:
        case ".py":
            told = ast.get_docstring(ast.parse(text))
        case ".md":
            return text.partition("\n")[0].removeprefix("# ")
        case _:
            told = _comment(text)
    if not told:
        raise ValueError(f"{path.relative_to(ROOT)} does not say what it is: give it a docstring or a first comment.")
    return _first_sentence(told)


def _comment(text: str) -> str:
    found = _COMMENT.match(text)
    lines = next(filter(None, found.groups()), "").splitlines() if found else []
    return "\n".join(re.sub(r"^\s*(?://|#|\*) ?", "", line) for line in lines)


def _first_sentence(told: str) -> str:
    paragraph = " ".join(told.strip().partition("\n\n")[0].split())
    found = re.match(r".*?[.!?](?= |$)", paragraph)
    return found[0] if found else paragraph


def listed(tree: str) -> list[Path]:
    """The files of a tree that have a line. Decisions have an index of their own, and packages speak for folders."""
    found = sorted((ROOT / tree).rglob("*"))
    return [
        path
        for path in found
        if path.suffix in SUFFIXES
        and path not in (PAGE, path.parent / "__init__.py")
        and not re.match(r"\d{4}-", path.name)
    ]


def line(path: Path, base: Path) -> str:
    """A list item with a link to the file, which is named as seen from the base."""
    link = f"[`{path.relative_to(base).as_posix()}`](../../{path.relative_to(ROOT).as_posix()})"
    return wrapped(f"* {link}: {about(path)}", "  ")


def wrapped(text: str, indent: str = "") -> str:
    return textwrap.fill(text, 120, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def section(folder: Path, files: list[Path]) -> str:
    """The folder's heading, what its `__init__.py` says, and a line for each of its files."""
    package = folder / "__init__.py"
    told = [wrapped(about(package))] if package.exists() else []
    lines = "\n".join(line(path, folder) for path in files)
    return "\n\n".join([f"## `{folder.relative_to(ROOT).as_posix()}`", *told, lines])


def sections() -> Iterator[str]:
    for tree in TREES:
        files = listed(tree)
        for folder in sorted({path.parent for path in files}):
            yield section(folder, [path for path in files if path.parent == folder])
    yield "\n\n".join(["## The rest", "\n".join(line(ROOT / name, ROOT) for name in SINGLE)])


def page() -> str:
    """The whole page. Raises ValueError for a file that does not say what it is."""
    return "\n\n".join([HEAD.rstrip(), *sections()]) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
