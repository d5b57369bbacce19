"""The documentation is tested: what it names exists, and what the command line offers is in it."""

from __future__ import annotations

import ast
import datetime
import re
import runpy
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main
from prometheus_client.parser import text_string_to_metric_families

from potluck.cli import app
from potluck.coordinator.audits.audits import no_audits
from potluck.coordinator.http.routes import ENDPOINTS, NODE_SOCKET
from potluck.coordinator.swarm.events import Joined
from potluck.coordinator.swarm.swarm import Swarm
from potluck.coordinator.watching.metrics import Metrics
from potluck.planning.cost import Footprint
from potluck.types import Span
from potluck.wire.messages import Hello

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "potluck"
TABLE = ROOT / "docs" / "options.md"
REPORT = ROOT / "benchmarks" / "bench" / "report.py"
"""Where the options are that all benchmarks have."""
ARCHITECTURE = ROOT / "ARCHITECTURE.md"
FILES = ROOT / "docs" / "internals" / "files.md"
DECISIONS = ROOT / "docs" / "decisions"
DOCUMENTS = [*sorted(ROOT.glob("*.md")), *sorted(ROOT.glob("docs/**/*.md"))]

_FENCE = re.compile(r"^```.*?\n(.*?)^```", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"`([^`]+)`")
_COMMAND = re.compile(r"(?:^|[$:&] )potluck ([a-z]+)((?: [^|#\n]*)?)", re.MULTILINE)
_BENCHMARK = re.compile(r"python (benchmarks/\w+\.py)([^#\n]*)")
_OPTION = re.compile(r"(?<![\w-])--[a-z][\w-]*")
_NAMED = re.compile(r"([\w/]+\.(?:py|c)):\s+([\w.]+)")
_FILE = re.compile(r"[\w./-]+\.(?:py|c|h|md|toml)|(?:src|tests|docs|benchmarks|native|deploy|\.ci)/[\w./-]*")
_LINK = re.compile(r"(?:\]\(|src(?:set)?=\")(?!https?://)([^)#\"]*)(?:#([^)]+))?")
_LINK_TEXT = re.compile(r"\[`[^`]+`\]\(")
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
_ENDPOINT = re.compile(r"/(?:status|health|metrics|manifest|node|v1/[\w/]+)")
_SETTING = re.compile(r"\bPOTLUCK_[A-Z_]+\b")
_LISTED = re.compile(r"^\*\s+\[`[^`]+`\]\(\.\./\.\./([^)]+)\):\s+(\S)", re.MULTILINE)
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
    inline = _INLINE.findall(_FENCE.sub("", text))
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
        for command, rest in map(_split_command, _COMMAND.findall(snippet)):
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
        for file, name in _NAMED.findall(snippet):
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
        yield from (name for name in _SETTING.findall(snippet) if name not in sources)
        if _ENDPOINT.fullmatch(snippet) and snippet not in routes:
            yield snippet


def rows(text: str) -> set[tuple[str, str]]:
    """(command, option) of each row of a table whose first cell is a command: the option is "" for the command."""
    found = re.findall(r"^\| `potluck ([a-z]+(?: [a-z]+)?)[^`]*` \| (?:`(--[\w-]+)`)? ?\|", text, re.MULTILINE)
    return set(found)


def offered() -> set[tuple[str, str]]:
    return {(command, option) for command, options in OPTIONS.items() for option in ["", *options]}


def listed_files(text: str) -> set[str]:
    """The files that the page lists, each with words about it."""
    return {path for path, _ in _LISTED.findall(text)}


def source_files() -> set[str]:
    files = [path for suffix in ("py", "c", "js", "css", "html", "svg") for path in SOURCE.rglob(f"*.{suffix}")]
    return {path.relative_to(ROOT).as_posix() for path in files if path.name != "__init__.py"}


def folders() -> set[str]:
    """Those of the source that hold files."""
    return {f"{ROOT.joinpath(path).parent.relative_to(ROOT).as_posix()}/" for path in source_files()}


def told_metrics() -> set[tuple[str, str, frozenset[str], str]]:
    """(name, type, labels, meaning) of each metric of a swarm with a node, as a scrape gives them."""
    swarm = Swarm("d", Footprint((1,), 0, 0))
    swarm.handle(Joined("n1", Hello("anna", "0.1", "", Span(0, 0), 1 << 40, 1)))
    swarm.tally.requests[200] += 1
    page = bytes(Metrics("toy", "d", swarm, no_audits(), Counter).response().body).decode()
    return {
        (f"{name}_total" if kind == "counter" else name, kind, frozenset(samples[0].labels), meaning)
        for family in text_string_to_metric_families(page)
        for name, kind, samples, meaning in [(family.name, family.type, family.samples, family.documentation)]
    }


def listed_metrics() -> set[tuple[str, str, frozenset[str], str]]:
    table = re.findall(
        r"^\| `(potluck_\w+)` \| (\w+) \| ([^|]*)\| (.+) \|$", (ROOT / "docs/operations.md").read_text("utf-8"), re.M
    )
    return {(name, kind, frozenset(_INLINE.findall(labels)), meaning) for name, kind, labels, meaning in table}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.relative_to(ROOT).as_posix())
def test_what_a_document_names_exists(document: Path) -> None:
    assert mistakes(document, document.read_text("utf-8")) == []


def test_every_command_and_option_is_documented() -> None:
    assert rows(TABLE.read_text("utf-8")) == offered()


def test_the_list_of_files_is_the_one_of_their_docstrings() -> None:
    made = runpy.run_path(str(ROOT / "docs" / "make_files.py"))
    assert made["PAGE"] == FILES
    assert made["page"]() == FILES.read_text("utf-8"), "The files have changed: run make docs."


def test_a_file_that_does_not_say_what_it_is_cannot_be_listed() -> None:
    made = runpy.run_path(str(ROOT / "docs" / "make_files.py"))
    with pytest.raises(ValueError, match=r"tests/data/alice\.txt does not say what it is"):
        made["about"](ROOT / "tests" / "data" / "alice.txt")


def test_the_list_of_files_has_a_line_for_every_source() -> None:
    listed = listed_files(FILES.read_text("utf-8"))
    assert {path for path in listed if path.startswith("src/")} == source_files()


@pytest.mark.parametrize("folder", ["benchmarks", "docs", "docs/internals", "deploy", "native"])
def test_the_list_of_files_has_a_line_for_every_file_of(folder: str) -> None:
    files = {path.relative_to(ROOT).as_posix() for path in (ROOT / folder).iterdir() if path.is_file()}
    listed = listed_files(FILES.read_text("utf-8"))
    within = {path for path in listed if path.rpartition("/")[0] == folder}
    assert within == files - {FILES.relative_to(ROOT).as_posix()}


def test_the_architecture_is_short_and_has_a_line_for_every_folder() -> None:
    text = ARCHITECTURE.read_text("utf-8")
    assert len(text.splitlines()) <= 170
    assert {path for path in tree_paths(text) if path.startswith("src/")} == folders()


def test_every_decision_is_in_the_index_with_its_date() -> None:
    index = re.findall(
        r"^\| \[(\d+)\]\((.+)\) \| (\S+) \| (.+) \|$", (DECISIONS / "README.md").read_text("utf-8"), re.M
    )
    pages = sorted(path for path in DECISIONS.iterdir() if path.name != "README.md")
    assert [name for _, name, _, _ in index] == [path.name for path in pages]
    for place, (number, name, date, title) in enumerate(index, 1):
        heading, *_ = text = (DECISIONS / name).read_text("utf-8").splitlines()
        assert (int(number), int(name[:4]), heading) == (place, place, f"# {place}. {title}")
        assert f"Date: {datetime.date.fromisoformat(date)}" in text
        assert [line for line in text if line.startswith("## ")] == ["## Context", "## Decision", "## Consequences"]


def test_the_table_of_metrics_has_what_a_scrape_gives() -> None:
    assert listed_metrics() == told_metrics()


def test_every_endpoint_and_every_field_is_documented() -> None:
    code = set(re.findall(r"[^`\s,]+", " ".join(snippets((ROOT / "docs" / "api.md").read_text("utf-8")))))
    fields = {name for endpoint in ENDPOINTS if endpoint.body for name in endpoint.body.__struct_fields__}
    assert {endpoint.path for endpoint in ENDPOINTS} | fields <= code


def test_the_protocol_is_the_one_of_the_messages() -> None:
    made = runpy.run_path(str(ROOT / "docs" / "make_protocol.py"))
    text = made["PAGE"].read_text("utf-8")
    assert made["page"](text) == text, "The messages have changed: run make docs."
    assert made["page"](text.replace("### Greeting", "### Dance")) == text


def test_every_setting_is_documented() -> None:
    sources = "\n".join(file.read_text("utf-8") for file in SOURCE.rglob("*.py"))
    documented = {name for document in DOCUMENTS for name in _SETTING.findall(document.read_text("utf-8"))}
    assert set(_SETTING.findall(sources)) == documented


def test_lines_are_short() -> None:
    lines = [line for document in DOCUMENTS for line in document.read_text("utf-8").splitlines()]
    assert [line for line in lines if len(line) > 120] == []


def docstrings() -> Iterator[tuple[str, str]]:
    """(file, text) of every docstring in the source, those of constants included."""
    for file in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if (
                isinstance(node, ast.Expr)
                and isinstance(node.value, ast.Constant)
                and isinstance(node.value.value, str)
            ):
                yield file.relative_to(SOURCE).as_posix(), node.value.value


def test_no_docstring_begins_with_a_fragment() -> None:
    fragment = re.compile(r"(Of|By|From|So|Than|Those|Through|Until|Where|Whom|Whose|Without)\b")
    texts = list(docstrings())
    assert len(texts) > 1000
    assert [(file, text.partition("\n")[0]) for file, text in texts if fragment.match(text)] == []


def test_the_check_looks_at_something() -> None:
    text = "\n".join(document.read_text("utf-8") for document in DOCUMENTS)
    code = snippets(text)
    assert sum(len(_COMMAND.findall(snippet)) for snippet in code) > 20
    assert sum(len(_NAMED.findall(snippet)) for snippet in code) > 40
    assert {"serve", "join", "status", "chat", "convert", "demo"} <= OPTIONS.keys()
    assert {"--host", "--port"} <= OPTIONS["serve"]


@pytest.mark.parametrize(
    ("text", "mistake"),
    [
        ("Run `potluck dance URL`.", "potluck dance"),
        ("```sh\npotluck serve m.gguf --colour red    # says --this\n```\n", "potluck serve --colour"),
        ("Run `potluck join URL --host 0.0.0.0`.", "potluck join --host"),
        ("Run `potluck invite dance URL`.", "potluck invite dance"),
        ("Run `potluck invite list URL --uses 1`.", "potluck invite list --uses"),
        ("`--colour` makes it red.", "--colour"),
        ("`python benchmarks/tax.py --colour`", "benchmarks/tax.py --colour"),
        ("`python benchmarks/none.py`", "benchmarks/none.py"),
        ("`node/engine_loop.py: EngineLoop.dance` runs.", "node/engine_loop.py: EngineLoop.dance"),
        ("`node/none.py: Stage` runs.", "node/none.py: Stage"),
        ("`node/engine_loop.py:\nEngineLoop.sing` runs.", "node/engine_loop.py: EngineLoop.sing"),
        ("`engine/_tap.c: potluck_cap`", "engine/_tap.c: potluck_cap"),
        ("See `docs/none.md`.", "docs/none.md"),
        ("See `wire/none.py`.", "wire/none.py"),
        ("See [`here`](wire/none.py).", "wire/none.py"),
        ("See [there](docs/none.md).", "docs/none.md"),
        ("See [there](docs/models.md#none).", "docs/models.md#none"),
        ("See [below](#none).", "#none"),
        ('<img src="docs/none.png" alt="none">', "docs/none.png"),
        ("```\nsrc/potluck/\n  wire/\n    none.py    a line\n```\n", "src/potluck/wire/none.py"),
        ("```sh\nmake dance\n```\n", "make dance"),
        ("`GET`, then `/v1/dance`", "/v1/dance"),
        ("`POTLUCK_DANCE`", "POTLUCK_DANCE"),
    ],
)
def test_the_check_finds_a_mistake(text: str, mistake: str) -> None:
    assert mistakes(ROOT / "README.md", text) == [mistake]


@pytest.mark.parametrize(
    "text",
    [
        "`potluck serve MODEL --host 127.0.0.1`, `potluck join URL 12`, `--port 0`, and `pip install --upgrade pip`",
        "```\n$ potluck status http://192.168.1.5:8470 | sort --unique\nA potluck dinner is fun.\n```\n",
        "`node/engine_loop.py: EngineLoop.run`, `types.py: SMALL_ROWS`, `engine/_tap.c: potluck_tap`, `wire/rows.py`",
        "`make test`, `/status`, `/v1/chat/completions`, `POTLUCK_CACHE`, `config.json`, [it](docs/models.md)",
        "`python benchmarks/tax.py` (or with `--plain`)",
        "`potluck invite` makes them, `potluck invite revoke URL ID --nodes` takes them back: `/v1/admin/invites`",
    ],
)
def test_the_check_lets_what_exists_pass(text: str) -> None:
    assert mistakes(ROOT / "README.md", text) == []


def test_a_missing_row_and_a_missing_file_would_be_seen() -> None:
    table = TABLE.read_text("utf-8")
    assert rows(table.replace("| `potluck serve` | `--rows`", "| `--rows`")) == offered() - {("serve", "--rows")}
    relay = "src/potluck/coordinator/relay/relay.py"
    listed = FILES.read_text("utf-8")
    assert listed_files(listed) - listed_files(listed.replace(f"{relay})", f"{relay}c)")) == {relay}
    tree = ARCHITECTURE.read_text("utf-8").replace("    relay/  ", "    relays/  ")
    assert folders() - set(tree_paths(tree)) == {"src/potluck/coordinator/relay/"}
