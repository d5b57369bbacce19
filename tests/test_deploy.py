"""The service files of `deploy`: they have their systems' form, and call commands that exist."""

from __future__ import annotations

import shlex
import shutil
from configparser import RawConfigParser
from pathlib import Path

import pytest

from kit.document_names import ROOT, mistakes
from kit.processes import finish

DEPLOY = ROOT / "deploy"
UNITS = sorted(DEPLOY.glob("*.service"))
LEAVE_S = 30
"""How long a polite node may take, as docs/recovery.md says."""


def unit(path: Path) -> RawConfigParser:
    parser = RawConfigParser(strict=True, delimiters=("=",), comment_prefixes=("#",), interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(path.read_text("utf-8"))
    return parser


def calls() -> dict[str, list[str]]:
    """Each file's command line."""
    return {path.name: shlex.split(unit(path)["Service"]["ExecStart"]) for path in UNITS}


def test_every_file_is_looked_at() -> None:
    assert calls().keys() == {path.name for path in DEPLOY.iterdir()}


@pytest.mark.parametrize("name", sorted(path.name for path in DEPLOY.iterdir()))
def test_the_commands_and_their_options_exist(name: str) -> None:
    program, command, *rest = calls()[name]
    assert Path(program).name == "potluck"
    assert command in ("serve", "join")
    line = f"`potluck {shlex.join([command, *rest])}`"
    assert mistakes(ROOT / "README.md", line) == []
    assert mistakes(ROOT / "README.md", line.replace("`potluck", "`potluck no")) != []


def test_services_give_a_node_the_time_that_it_takes_to_leave() -> None:
    service = unit(DEPLOY / "potluck-node.service")["Service"]
    assert int(service["TimeoutStopSec"]) > LEAVE_S
    assert service["Restart"] == "on-failure"


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.name)
def test_systemd_takes_the_unit(path: Path, tmp_path: Path) -> None:
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("There is no systemd here.")
    copy = tmp_path / path.name
    copy.write_text(path.read_text("utf-8").replace("/opt/potluck/bin/potluck", "/bin/true"), "utf-8")
    done = finish(program, "verify", "--man=no", copy)
    assert [line for line in done.stderr.splitlines() if path.name in line] == []
    assert done.returncode == 0, done.stderr
