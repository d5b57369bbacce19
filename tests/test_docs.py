"""The documentation is tested: what it names exists, and what the command line offers is in it."""

from __future__ import annotations

import ast
import datetime
import re
import runpy
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from openai.types import completion_create_params as completion_params
from openai.types.chat import completion_create_params as chat_params
from prometheus_client.parser import text_string_to_metric_families

from kit.document_names import COMMAND, INLINE, NAMED, OPTIONS, ROOT, SETTING, SOURCE, mistakes, snippets, tree_paths
from kit.watched import watched
from potluck.coordinator.http.habits import REFUSED
from potluck.coordinator.http.requests import ChatRequest, CompletionRequest
from potluck.coordinator.http.routes import ENDPOINTS
from potluck.coordinator.swarm.events import Joined
from potluck.coordinator.swarm.swarm import Swarm
from potluck.coordinator.watching.metrics import Metrics
from potluck.planning.cost import Footprint
from potluck.types import Span
from potluck.wire.messages import Hello

TABLE = ROOT / "docs" / "options.md"
ARCHITECTURE = ROOT / "ARCHITECTURE.md"
FILES = ROOT / "docs" / "internals" / "files.md"
DECISIONS = ROOT / "docs" / "decisions"
DOCUMENTS = [*sorted(ROOT.glob("*.md")), *sorted(ROOT.glob("docs/**/*.md"))]

_LISTED = re.compile(r"^\*\s+\[`[^`]+`\]\(\.\./\.\./([^)]+)\):\s+(\S)", re.MULTILINE)


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
    page = bytes(Metrics([watched(swarm)], Counter({200: 1})).response().body).decode()
    return {
        (f"{name}_total" if kind == "counter" else name, kind, frozenset(samples[0].labels), meaning)
        for family in text_string_to_metric_families(page)
        for name, kind, samples, meaning in [(family.name, family.type, family.samples, family.documentation)]
    }


def listed_metrics() -> set[tuple[str, str, frozenset[str], str]]:
    table = re.findall(
        r"^\| `(potluck_\w+)` \| (\w+) \| ([^|]*)\| (.+) \|$", (ROOT / "docs/operations.md").read_text("utf-8"), re.M
    )
    return {(name, kind, frozenset(INLINE.findall(labels)), meaning) for name, kind, labels, meaning in table}


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


def test_every_field_of_openai_is_taken_or_refused_or_called_a_hint() -> None:
    text = (ROOT / "docs" / "api.md").read_text("utf-8")
    hints = set(re.findall(r"`(\w+)`", text.partition("OpenAI's hints are ignored: ")[2].partition(".")[0]))
    for theirs, ours in (
        (chat_params.CompletionCreateParamsBase, ChatRequest),
        (completion_params.CompletionCreateParamsBase, CompletionRequest),
    ):
        fields, known = theirs.__annotations__.keys(), {*ours.__struct_fields__, *REFUSED}
        assert len(fields) > 15
        assert fields - known <= hints
    assert not hints & {*ChatRequest.__struct_fields__, *REFUSED}


def test_every_refused_field_is_documented() -> None:
    table = (
        (ROOT / "docs" / "api.md").read_text("utf-8").partition("### Fields that are refused")[2].partition("\n## ")[0]
    )
    assert REFUSED.keys() <= set(re.findall(r"`(\w+)`", table))


def test_the_protocol_is_the_one_of_the_messages() -> None:
    made = runpy.run_path(str(ROOT / "docs" / "make_protocol.py"))
    text = made["PAGE"].read_text("utf-8")
    assert made["page"](text) == text, "The messages have changed: run make docs."
    assert made["page"](text.replace("### Greeting", "### Dance")) == text


def test_every_setting_is_documented() -> None:
    sources = "\n".join(file.read_text("utf-8") for file in SOURCE.rglob("*.py"))
    documented = {name for document in DOCUMENTS for name in SETTING.findall(document.read_text("utf-8"))}
    assert set(SETTING.findall(sources)) == documented


def test_lines_are_short() -> None:
    """Rows of measured figures are exempt: they are generated, and a row of a table cannot be broken."""
    measured = re.compile(r"<!-- figures: .*?<!-- /figures -->", re.S)
    lines = [line for document in DOCUMENTS for line in measured.sub("", document.read_text("utf-8")).splitlines()]
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
    assert sum(len(COMMAND.findall(snippet)) for snippet in code) > 20
    assert sum(len(NAMED.findall(snippet)) for snippet in code) > 40
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
