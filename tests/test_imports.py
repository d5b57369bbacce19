"""Who may import whom: the arrows of the design, checked in the source of every file."""

import ast
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

import potluck
from kit.processes import python

SOURCE = Path(potluck.__file__).parent

BASE = {"types", "errors", "platform"}
ARROWS = {
    "errors": set(),
    "types": {"errors"},
    "platform": {"errors"},
    "network": {"errors"},
    "webserver": BASE,
    "wire": BASE | {"network"},
    "planning": BASE,
    "models": BASE | {"network"},
    "llama": BASE,
    "engine": BASE | {"models", "llama"},
    "node": BASE | {"network", "webserver", "wire", "planning", "models", "llama", "engine"},
    "coordinator": BASE | {"webserver", "wire", "planning", "models", "llama"},
    "client": BASE | {"network"},
}
"""For each part of the package those that it may import besides itself."""

LIBRARIES = {"platform": {"psutil"}}
"""The libraries that the files of the base may import besides Python's own; by default msgspec."""

FREE = {"cli", "commands", "local", "__main__"}
"""These may import anything, and nothing else may import them."""

LEAVES = {"event_stream", "recent", "model_choice", "topic"}
"""Files of the coordinator that import none of its folders; every folder may import them."""

FOLDERS = {
    "text": set(),
    "relay": set(),
    "members": set(),
    "fleet": set(),
    "swarm": {"relay", "members"},
    "audits": {"swarm", "relay", "members"},
    "sessions": {"audits", "swarm", "relay", "members"},
    "gateway": {"sessions", "audits", "swarm", "relay", "members"},
    "generation": {"sessions", "swarm", "relay", "text"},
    "watching": {"sessions", "audits", "swarm", "relay", "members"},
    "http": {"fleet", "generation", "watching", "gateway", "sessions", "swarm", "relay", "text", "members"},
    "server": set(),
    "announcing": set(),
    "guessers": {"generation", "text"},
    "compose": {
        "guessers",
        "generation",
        "watching",
        "gateway",
        "sessions",
        "audits",
        "swarm",
        "relay",
        "text",
        "members",
    },
    "giving": {"gateway", "fleet"},
    "membership": {"giving", "compose", "http", "gateway", "fleet"},
    "offered": {"compose", "gateway", "text"},
    "app": {"membership", "giving", "compose", "offered", "http", "watching", "gateway", "sessions", "text", "fleet"},
}
"""For each folder of the coordinator those that it may import: the arrows run downwards only. `compose` wires all."""

MOST_LINES = 400
MOST_LINES_OF_A_FUNCTION = 60

IMPURE = {"asyncio", "datetime", "os", "pathlib", "random", "secrets", "socket", "subprocess", "threading", "time"}


def base_of(node: ast.ImportFrom, package: str) -> str:
    """The full name of the module from which a file in this package imports."""
    parents = package.split(".")[: len(package.split(".")) + 1 - node.level] if node.level else []
    return ".".join([*parents, *([node.module] if node.module else [])])


def imported(source: str, package: str) -> Iterator[str]:
    """The full name of every module that a source imports, wherever in it; `package` is the one its file lies in."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = base_of(node, package)
            # "from potluck import wire" names a part only in its last word.
            yield from (f"potluck.{alias.name}" for alias in node.names) if module == "potluck" else (module,)


def forbidden(part: str, source: str, package: str = "potluck") -> list[str]:
    """The imports of a source that its part of the package may not have."""
    wrong = []
    for name in imported(source, package):
        root, _, rest = name.partition(".")
        target = rest.split(".")[0]
        if root == "potluck":
            if target and target in ARROWS.keys() | FREE and target != part and target not in ARROWS[part]:
                wrong.append(name)
        elif (part in BASE and root not in sys.stdlib_module_names | LIBRARIES.get(part, {"msgspec"})) or (
            part == "planning" and root in IMPURE
        ):
            wrong.append(name)
    return wrong


def part_of(file: Path) -> str:
    return file.relative_to(SOURCE).parts[0].removesuffix(".py")


def folder_of(module: str) -> str | None:
    """The coordinator's folder in which a module lies, or the file where it lies in none."""
    parts = module.split(".")
    return parts[2] if parts[:2] == ["potluck", "coordinator"] and len(parts) > 2 else None


def module_of(file: Path) -> str:
    return ".".join(("potluck", *file.relative_to(SOURCE).with_suffix("").parts)).removesuffix(".__init__")


FILES = sorted(SOURCE.rglob("*.py"))
MODULES = {module_of(file): file for file in FILES}


def imports_of(module: str) -> set[str]:
    """The modules of this package that one of them imports, wherever in it, those for type checkers included."""
    file = MODULES[module]
    package = module if file.name == "__init__.py" else module.rpartition(".")[0]
    found = set()
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = base_of(node, package)
            names = (f"{base}.{alias.name}" for alias in node.names)
            found |= {name if name in MODULES else base for name in names}
    return found & MODULES.keys() - {module}


def circles(arrows: Mapping[str, set[str]]) -> set[frozenset[str]]:
    """The sets of nodes of a graph that reach each other (its strongly connected components of two or more)."""
    reached = {start: set[str]() for start in arrows}
    for start in arrows:
        ahead = list(arrows[start])
        while ahead:
            if (node := ahead.pop()) not in reached[start]:
                reached[start].add(node)
                ahead += arrows[node]
    mates = ({other for other in reached[one] if one in reached[other]} for one in arrows)
    return {frozenset(group) for group in mates if len(group) > 1}


def long_ones(name: str, source: str) -> list[str]:
    """The file itself, and its functions, where they have more lines than they may."""
    functions = (
        node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    )
    return [
        *([name] if source.count("\n") > MOST_LINES else []),
        *(
            f"{name}: {function.name}"
            for function in functions
            if (function.end_lineno or 0) - function.lineno >= MOST_LINES_OF_A_FUNCTION
        ),
    ]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.relative_to(SOURCE).as_posix())
def test_the_arrows_hold(file: Path) -> None:
    part = part_of(file)
    package = ".".join(("potluck", *file.relative_to(SOURCE).parts[:-1]))
    if part not in FREE | {"__init__"}:
        assert forbidden(part, file.read_text("utf-8"), package) == []


@pytest.mark.parametrize("module", [module for module in MODULES if folder_of(module)])
def test_the_arrows_between_the_folders_of_the_coordinator_hold(module: str) -> None:
    folder = folder_of(module)
    assert folder is not None
    targets = {target for name in imports_of(module) if (target := folder_of(name))} - {folder}
    if folder in LEAVES:
        assert not targets
    else:
        assert targets - LEAVES <= FOLDERS[folder]


def test_no_arrow_between_folders_is_allowed_without_need() -> None:
    arrows = {
        (source, target)
        for module in MODULES
        for name in imports_of(module)
        if (source := folder_of(module)) and (target := folder_of(name)) and source != target
    }
    allowed = {(source, target) for source, targets in FOLDERS.items() for target in targets}
    assert {arrow for arrow in arrows if arrow[1] not in LEAVES} == allowed


def test_the_folders_of_the_coordinator_lie_on_floors() -> None:
    assert circles(FOLDERS) == set()


def test_no_files_import_each_other_in_a_circle() -> None:
    assert circles({module: imports_of(module) for module in MODULES}) == set()


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.relative_to(SOURCE).as_posix())
def test_files_and_functions_are_short(file: Path) -> None:
    name = file.relative_to(SOURCE).as_posix()
    assert long_ones(name, file.read_text("utf-8")) == []


def test_plans_are_made_without_the_web_application() -> None:
    script = """
import sys
from potluck.commands.plan import plan
from potluck.errors import PotluckError
try:
    plan("no/such/model.gguf", ["8G"])
except PotluckError:
    print({"starlette", "uvicorn"} & sys.modules.keys())
"""
    assert python("-c", script) == "set()\n"


def test_every_part_has_its_rule() -> None:
    assert {part_of(file) for file in FILES} <= ARROWS.keys() | FREE | {"__init__"}
    assert {"node", "coordinator", "wire", "planning", "models", "engine", "types", "errors"} <= set(
        map(part_of, FILES)
    )


def test_nothing_is_unpickled_or_unmarshalled() -> None:
    """What comes over the wire, or with a model, must not run code; `models/pickled.py` reads pickles by itself."""
    executing = {"pickle", "_pickle", "cPickle", "marshal", "shelve", "dill", "cloudpickle", "joblib"}
    found = {
        file.relative_to(SOURCE).as_posix()
        for file in FILES
        if executing & {name.partition(".")[0] for name in imported(file.read_text("utf-8"), "potluck")}
    }
    assert found == {"models/pickled.py"}


@pytest.mark.parametrize(
    ("part", "source"),
    [
        ("node", "from potluck.coordinator.swarm.swarm import Swarm"),
        ("coordinator", "import potluck.node.engine_loop"),
        ("coordinator", "def late():\n    from potluck.engine import base"),
        ("wire", "if TYPE_CHECKING:\n    from potluck import planning"),
        ("planning", "from ..wire import codec"),
        ("planning", "import time"),
        ("models", "from potluck.engine.base import Engine"),
        ("engine", "from potluck.wire.rows import Rows"),
        ("types", "import numpy"),
        ("types", "from potluck.wire import messages"),
        ("errors", "from potluck.types import Span"),
        ("node", "from potluck.local import demo"),
        ("client", "from potluck.cli import main"),
    ],
)
def test_the_check_finds_a_forbidden_import(part: str, source: str) -> None:
    assert len(forbidden(part, source, f"potluck.{part}")) == 1


@pytest.mark.parametrize(
    ("part", "source"),
    [
        ("node", "import potluck\nfrom potluck import errors\nfrom potluck.engine.base import Engine\nimport numpy"),
        (
            "coordinator",
            "from . import recent\nfrom .relay.relay import Relay\nfrom potluck.planning.cost import Footprint",
        ),
        ("planning", "from collections.abc import Sequence\nfrom potluck.types import Span"),
        ("types", "import re\nfrom msgspec import Struct\nfrom potluck.errors import SpanError"),
    ],
)
def test_the_check_lets_allowed_imports_pass(part: str, source: str) -> None:
    assert forbidden(part, source, f"potluck.{part}") == []


def test_no_test_module_imports_another() -> None:
    """What several of them need is in tests/kit."""
    tests = Path(__file__).parent
    found = [
        (path.relative_to(tests).as_posix(), name)
        for path in tests.rglob("*.py")
        for name in imported(path.read_text("utf-8"), ".".join(path.relative_to(tests).parent.parts))
        if any(part == "conftest" or part.startswith("test_") for part in name.split("."))
    ]
    assert found == []
