"""The public API as users see it: its names exist, and a type checker knows their types."""

from __future__ import annotations

import os
import shutil
import sysconfig
import tomllib
import venv
from pathlib import Path

import pytest

import potluck
from kit.processes import PYTHON, finish

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "potluck"

PROGRAM = """
import potluck

swarm: potluck.Client = potluck.connect("http://127.0.0.1:8470", key="pk-1")
messages = [{"role": "user", "content": "Hello!"}]
try:
    answer = swarm.chat(messages, max_tokens=20)
    names: list[str] = swarm.served_by(answer)
    tokens: list[int] = swarm.tokenize("Hello!")
    scores: list[float] = swarm.loglikelihood(tokens)
    rows = swarm.hidden_states(tokens, layer=3)
    print(rows.shape, names, scores, potluck.__version__.upper())
    for piece in swarm.stream_chat(swarm.model, messages):
        print(piece.strip())
except potluck.PotluckError as error:
    print(error)
"""


@pytest.fixture(scope="module")
def checker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment into which Potluck is installed, beside what it needs; the folder of its packages."""
    folder = tmp_path_factory.mktemp("user")
    venv.create(folder, symlinks=True)
    packages = next(folder.glob("[Ll]ib/**/site-packages"))
    shutil.copytree(SOURCE, packages / "potluck", ignore=shutil.ignore_patterns("__pycache__", "*.so", "web"))
    (packages / "others.pth").write_text(sysconfig.get_path("purelib"), "utf-8")
    return packages


def check(packages: Path, program: str, folder: Path) -> str:
    """What mypy says of a user's program, in a folder of its own."""
    (folder / "program.py").write_text(program, "utf-8")
    [python] = [path for path in packages.parents[2].glob("[bS]*/python*") if path.stem == "python"]
    cache = packages.parents[2] / "mypy"
    command = [*PYTHON, "-m", "mypy", "--strict", f"--python-executable={python}", f"--cache-dir={cache}"]
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "MYPYPATH")}
    done = finish(*command, "program.py", cwd=folder, env=environment)
    return done.stdout + done.stderr


def test_the_public_names_exist() -> None:
    assert potluck.__all__ == sorted(potluck.__all__)
    assert all(getattr(potluck, name) for name in potluck.__all__)
    with pytest.raises(AttributeError, match="'potluck' has no attribute 'conect'"):
        potluck.conect  # type: ignore[attr-defined]  # noqa: B018


def test_a_program_that_uses_only_the_public_api_is_typed(checker: Path, tmp_path: Path) -> None:
    assert check(checker, PROGRAM, tmp_path) == "Success: no issues found in 1 source file\n"


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("potluck.conect('http://127.0.0.1')", '"conect"'),
        ("potluck.connect(8470)", 'expected "str"'),
        ("potluck.connect('http://127.0.0.1').chat('Hello!')", "incompatible type"),
        ("potluck.connect('http://127.0.0.1').tokenize('a').lower()", '"list[int]" has no attribute "lower"'),
    ],
)
def test_mistakes_are_found(checker: Path, line: str, complaint: str, tmp_path: Path) -> None:
    assert complaint in check(checker, f"import potluck\n\n{line}\n", tmp_path)


def test_the_types_are_found_by_the_marker(checker: Path, tmp_path: Path) -> None:
    marker = checker / "potluck" / "py.typed"
    marker.unlink()
    try:
        assert "missing library stubs or py.typed marker" in check(checker, PROGRAM, tmp_path)
    finally:
        marker.touch()


def test_every_file_of_the_package_is_shipped() -> None:
    """A wheel holds the modules, and what `package-data` names."""
    data = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["setuptools"]["package-data"]
    named = {path for package, globs in data.items() for glob in globs for path in _folder(package).glob(glob)}
    built = {".py", ".c", ".so", ".pyd", ".pyc"}
    files = {path for path in SOURCE.rglob("*") if path.is_file() and path.suffix not in built}
    assert files == named
    folders = {path.parent for path in SOURCE.rglob("*.py")}
    assert [folder for folder in folders if not (folder / "__init__.py").exists()] == []


def _folder(package: str) -> Path:
    return SOURCE.parent.joinpath(*package.split("."))
