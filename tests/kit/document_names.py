"""What a document names of this project: commands, options, files, functions, endpoints; and whether it is there."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer.main

from potluck.cli import app
from potluck.coordinator.http.routes import ENDPOINTS, NODE_SOCKET

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "potluck"
REPORT = ROOT / "benchmarks" / "bench" / "report.py"
"""Where the options are that all benchmarks have."""
_FENCE = re.compile(r"^```.*?\n(.*?)^```", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`([^`]+)`")
COMMAND = re.compile(r"(?:^|[$:&] )potluck ([a-z]+)((?: [^|#\n]*)?)", re.MULTILINE)
_BENCHMARK = re.compile(r"python (benchmarks/\w+\.py)([^#\n]*)")
_OPTION = re.compile(r"(?<![\w-])--[a-z][\w-]*")
NAMED = re.compile(r"([\w/]+\.(?:py|c)):\s+([\w.]+)")
_FILE = re.compile(r"[\w./-]+\.(?:py|c|h|md|toml)|(?:src|tests|docs|benchmarks|native|deploy|\.ci)/[\w./-]*")
_LINK = re.compile(r"(?:\]\(|src(?:set)?=\")(?!https?://)([^)#\"]*)(?:#([^)]+))?")
_LINK_TEXT = re.compile(r"\[`[^`]+`\]\(")
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
_ENDPOINT = re.compile(r"/(?:status|health|metrics|manifest|node|v1/[\w/]+)")
SETTING = re.compile(r"\bPOTLUCK_[A-Z_]+\b")
_TREE_LINE = re.compile(r"( *)([\w./-]+)(?:  .*)?")


def options_of() -> dict[str, set[str]]:
    """The options of each command, as the command line has them; commands in a group as `invite create`."""

    def walk(group: Any, prefix: str) -> Iterator[tuple[str, set[str]]]:
        for name, command in group.commands.items():
            if hasattr(command, "commands"):
                yield from walk(command, f"{prefix}{name} ")
            else:
                options = {option for parameter in command.params for option in parameter.opts}
                yield prefix + name, {option for option in options if option.startswith("--")} - {"--help"}

    return dict(walk(typer.main.get_command(app), ""))


OPTIONS = options_of()
GROUPS = {name.split()[0] for name in OPTIONS if " " in name}


def snippets(text: str) -> list[str]:
    """All that the document sets as code, each inline piece on one line."""
    inline = INLINE.findall(_FENCE.sub("", text))
    return [*_FENCE.findall(text), *(re.sub(r"\s+", " ", piece) for piece in inline)]


def definitions(source: str) -> set[str]:
    """The functions, classes and constants of a Python source; members as `Class.member`."""

    def walk(body: list[ast.stmt], prefix: str) -> Iterator[str]:
        for node in body:
            match node:
                case ast.FunctionDef() | ast.AsyncFunctionDef():
                    yield prefix + node.name
                case ast.ClassDef():
                    yield prefix + node.name
                    yield from walk(node.body, f"{prefix}{node.name}.")
                case ast.Assign():
                    yield from (prefix + target.id for target in node.targets if isinstance(target, ast.Name))
                case ast.AnnAssign(target=ast.Name()):
                    yield prefix + node.target.id  # type: ignore[union-attr]

    return set(walk(ast.parse(source).body, ""))


def find(name: str, document: Path) -> Path | None:
    """The file or folder that a document means: from the root, from the package, or from its own folder."""
    return next((base / name for base in (ROOT, SOURCE, document.parent) if (base / name).exists()), None)


def anchors(text: str) -> set[str]:
    """What links may name of a document: its headings, as GitHub makes names of them."""
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in _HEADING.findall(text)}


def tree_paths(text: str) -> Iterator[str]:
    """The paths in a block that shows a file tree: a folder ends in a slash, what it holds is indented."""
    for block in _FENCE.findall(text):
        if not block.startswith("src/potluck/\n"):
            continue
        folders: list[str] = []
        for line in filter(None, block.split("\n")):
            match = _TREE_LINE.fullmatch(line)
            assert match is not None, line
            folders = [*folders[: len(match[1]) // 2], match[2]]
            yield "".join(folders)


def mistakes(document: Path, text: str) -> list[str]:
    """What the document names and is not there."""
    code = snippets(text)
    return [
        *_wrong_commands(code),
        *_wrong_benchmarks(code),
        *_wrong_functions(code, document),
        *_wrong_files(code, text, document),
        *_wrong_words(code),
    ]


def _wrong_commands(code: list[str]) -> Iterator[str]:
    everything = set().union(*OPTIONS.values())
    for snippet in code:
        for command, rest in map(_split_command, COMMAND.findall(snippet)):
            if command in GROUPS:  # all of its commands are meant
                continue
            if command not in OPTIONS:
                yield f"potluck {command}"
            else:
                unknown = [option for option in _OPTION.findall(rest) if option not in OPTIONS[command]]
                yield from (f"potluck {command} {option}" for option in unknown)
        # An option that stands alone is ours, unless it is shown beside a benchmark that has it.
        if snippet.startswith("--") and _OPTION.findall(snippet)[0] not in everything | _benchmark_options(code):
            yield snippet


def _split_command(found: tuple[str, str]) -> tuple[str, str]:
    """(command, rest), with the second word where the first one is a group."""
    group, rest = found
    second, _, after = rest.strip().partition(" ")
    return (f"{group} {second}", after) if group in GROUPS and second.islower() else found


def _benchmark_options(code: list[str]) -> set[str]:
    files = {file for snippet in code for file, _ in _BENCHMARK.findall(snippet) if (ROOT / file).exists()}
    return {option for file in (*files, REPORT) for option in _OPTION.findall((ROOT / file).read_text("utf-8"))}


def _wrong_benchmarks(code: list[str]) -> Iterator[str]:
    for snippet in code:
        for file, rest in _BENCHMARK.findall(snippet):
            sources = (ROOT / file, REPORT) if (ROOT / file).exists() else ()
            known = {option for source in sources for option in _OPTION.findall(source.read_text("utf-8"))}
            yield from (f"{file} {option}" for option in _OPTION.findall(rest) if option not in known)


def _wrong_functions(code: list[str], document: Path) -> Iterator[str]:
    for snippet in code:
        for file, name in NAMED.findall(snippet):
            path = find(file, document)
            if path is None:
                yield f"{file}: {name}"
            elif path.suffix == ".py":
                if name not in definitions(path.read_text("utf-8")):
                    yield f"{file}: {name}"
            elif not re.search(rf"\b{re.escape(name)}\(", path.read_text("utf-8")):
                yield f"{file}: {name}"


def _wrong_files(code: list[str], text: str, document: Path) -> Iterator[str]:
    named = [snippet for snippet in snippets(_LINK_TEXT.sub("](", text)) if _FILE.fullmatch(snippet)]
    benchmarks = [file for snippet in code for file, _ in _BENCHMARK.findall(snippet)]
    yield from (name for name in [*named, *benchmarks, *tree_paths(text)] if find(name, document) is None)
    for file, anchor in _LINK.findall(text):
        target = document.parent / file if file else document
        if not target.exists():
            yield file
        elif anchor and anchor not in anchors(target.read_text("utf-8")):
            yield f"{file}#{anchor}"


def _wrong_words(code: list[str]) -> Iterator[str]:
    """`make` targets, endpoints and environment variables."""
    targets = re.findall(r"^([\w./-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
    sources = "\n".join(file.read_text("utf-8") for file in SOURCE.rglob("*.py"))
    routes = {NODE_SOCKET, *(endpoint.path for endpoint in ENDPOINTS)}
    for snippet in code:
        yield from (f"make {t}" for t in re.findall(r"^make ([\w./-]+)", snippet, re.MULTILINE) if t not in targets)
        yield from (name for name in SETTING.findall(snippet) if name not in sources)
        if _ENDPOINT.fullmatch(snippet) and snippet not in routes:
            yield snippet
