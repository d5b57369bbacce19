"""Who may import whom: the arrows of the design, checked in the source of every file."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import potluck

SOURCE = Path(potluck.__file__).parent

BASE = {"types", "errors"}
ARROWS = {
    "errors": set(),
    "types": {"errors"},
    "wire": BASE,
    "planning": BASE,
    "models": BASE,
    "engine": BASE | {"models"},
    "node": BASE | {"wire", "models", "engine"},
    "coordinator": BASE | {"wire", "planning", "models"},
    "client": BASE,
}
"""For each part of the package those that it may import besides itself."""

COMMANDS = {"board", "cli", "contributor", "hosting", "owner", "planner", "progress", "running", "talk", "terminal"}
FREE = COMMANDS | {"local", "__main__"}
"""These may import anything, and nothing else may import them."""

IMPURE = {"asyncio", "datetime", "os", "pathlib", "random", "secrets", "socket", "subprocess", "threading", "time"}


def imported(source: str, package: str) -> Iterator[str]:
    """The full name of every module that a source imports, wherever in it; `package` is the one its file lies in."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) + 1 - node.level] if node.level else []
            module = ".".join([*parents, *([node.module] if node.module else [])])
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
        elif (part in BASE and root not in sys.stdlib_module_names | {"msgspec"}) or (
            part == "planning" and root in IMPURE
        ):
            wrong.append(name)
    return wrong


def part_of(file: Path) -> str:
    return file.relative_to(SOURCE).parts[0].removesuffix(".py")


FILES = sorted(SOURCE.rglob("*.py"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.relative_to(SOURCE).as_posix())
def test_the_arrows_hold(file: Path) -> None:
    part = part_of(file)
    package = ".".join(("potluck", *file.relative_to(SOURCE).parts[:-1]))
    if part not in FREE | {"__init__"}:
        assert forbidden(part, file.read_text("utf-8"), package) == []


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
        ("node", "from potluck.coordinator.swarm import Swarm"),
        ("coordinator", "import potluck.node.stage"),
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
        ("coordinator", "from . import relay\nfrom .relay import Relay\nfrom potluck.planning.cost import Footprint"),
        ("planning", "from collections.abc import Sequence\nfrom potluck.types import Span"),
        ("types", "import re\nfrom msgspec import Struct\nfrom potluck.errors import SpanError"),
    ],
)
def test_the_check_lets_allowed_imports_pass(part: str, source: str) -> None:
    assert forbidden(part, source, f"potluck.{part}") == []
