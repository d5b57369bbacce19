"""The files by which three systems start a node at login, read back as these systems read them."""

from __future__ import annotations

import os
import plistlib
import re
import shutil
from pathlib import Path
from xml.etree import ElementTree

import pytest

from kit.processes import finish
from potluck.commands.login import SYSTEMS, Service, label_of, service_of
from potluck.errors import PotluckError

LEAVE_S = 30
"""How long a polite node may take, as docs/recovery.md says."""
NAME = 'Änne\'s "node" 100% <&> $HOME'
TASK = "{http://schemas.microsoft.com/windows/2004/02/mit/task}"


def service(system: str, command: list[str], home: Path, **environ: str) -> Service:
    return service_of(system, NAME, command, home, home / "data folder", environ)


def command_in(folder: Path) -> list[str]:
    """A command with all that has a meaning in one of the files."""
    awkward = ["a b", 'say "hi"', "back\\slash\\", "100% %h", "$HOME ${X}", "<&>", "ünï", "--name='x'", "", 'end\\"']
    return [str(folder / "a b%c" / "python"), "-m", "potluck", "join", *awkward]


def unquoted(line: str) -> list[str]:
    """The words of a line as systemd takes them: quotes, backslashes, percent signs and dollar signs."""
    words = [re.sub(r"\\(.)", r"\1", word) for word in re.findall(r'"((?:[^"\\]|\\.)*)"', line)]
    program, *rest = (word.replace("%%", "%") for word in words)
    return [program, *(word.replace("$$", "$") for word in rest)]


def lines_of(unit: Service) -> list[tuple[str, str]]:
    found = (line.partition("=") for line in unit.text.decode().splitlines() if "=" in line)
    return [(key, value) for key, _, value in found]


def test_the_unit_of_systemd(tmp_path: Path) -> None:
    command = command_in(tmp_path)
    unit = service("linux", command, tmp_path, POTLUCK_DATA="/my data/100%", HF_TOKEN="secret")
    assert unit.path == tmp_path / ".config" / "systemd" / "user" / f"potluck-{label_of(NAME)}.service"
    lines = lines_of(unit)
    assert unquoted(dict(lines)["ExecStart"]) == command
    assert [unquoted(value)[0] for key, value in lines if key == "Environment"] == [
        "PYTHONUNBUFFERED=1",
        "POTLUCK_DATA=/my data/100%",
    ]
    assert dict(lines)["Restart"] == "on-failure"
    assert int(dict(lines)["TimeoutStopSec"]) > LEAVE_S
    assert b"secret" not in unit.text


def test_the_unit_is_where_the_owner_keeps_settings(tmp_path: Path) -> None:
    unit = service("linux", ["python"], tmp_path, XDG_CONFIG_HOME=str(tmp_path / "settings"))
    assert unit.path.parent == tmp_path / "settings" / "systemd" / "user"


def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("There is no systemd here.")
    command = command_in(tmp_path)
    Path(command[0]).parent.mkdir()
    Path(command[0]).symlink_to("/bin/true")
    unit = service("linux", command, tmp_path, POTLUCK_DATA="/my data/100%")
    path = tmp_path / unit.path.name
    path.write_bytes(unit.text)
    done = finish(program, "verify", "--man=no", path)
    assert [line for line in done.stderr.splitlines() if path.name in line] == []
    assert done.returncode == 0, done.stderr
    Path(command[0]).unlink()  # it has read which program this is
    assert f"{command[0]} is not executable" in finish(program, "verify", "--man=no", path).stderr


def test_the_agent_of_launchd(tmp_path: Path) -> None:
    command = command_in(tmp_path)
    agent = service("darwin", command, tmp_path, POTLUCK_CACHE="/my cache", HF_TOKEN="secret")
    told = plistlib.loads(agent.text)
    assert agent.path == tmp_path / "Library" / "LaunchAgents" / f"{told['Label']}.plist"
    assert told["ProgramArguments"] == command
    assert told["EnvironmentVariables"] == {"PYTHONUNBUFFERED": "1", "POTLUCK_CACHE": "/my cache"}
    assert (told["RunAtLoad"], told["KeepAlive"]) == (True, {"SuccessfulExit": False})
    assert told["ExitTimeOut"] > LEAVE_S
    assert Path(told["StandardOutPath"]).parent == tmp_path / "Library" / "Logs"
    assert b"secret" not in agent.text


def words_of_windows(line: str) -> list[str]:
    """The words as the C library of Windows splits them: backslashes count before a quote only."""
    words: list[str] = []
    for match in re.finditer(r'(?:"((?:\\.|[^"\\])*?(?:\\\\)*)"|([^\s"]+))(?:\s|$)', line):
        if match[1] is None:
            words.append(match[2])
        else:
            words.append(re.sub(r'(\\+)("|$)', lambda found: "\\" * (len(found[1]) // 2) + found[2], match[1]))
    return words


def test_the_task_of_windows(tmp_path: Path) -> None:
    command = ["C:\\Program Files\\Python\\python.exe", "-m", "potluck", "a b", "--model=C:\\my models\\", "<&>", "ünï"]
    task = service("win32", command, tmp_path, USERDOMAIN="HOME", USERNAME="Änne", POTLUCK_DATA="D:\\data")
    assert task.path == tmp_path / "data folder" / "services" / f"{label_of(NAME)}.xml"
    assert task.text.startswith((b"\xff\xfe", b"\xfe\xff"))
    assert "encoding='utf-16'" in task.text.decode("utf-16")
    root = ElementTree.fromstring(task.text)
    told = {element.tag.removeprefix(TASK): element.text for element in root.iter()}
    assert told["Command"] == command[0]
    assert words_of_windows(told["Arguments"] or "") == command[1:]
    assert [element.text for element in root.iter(f"{TASK}UserId")] == ["HOME\\Änne"] * 2
    assert told["Description"] == f"Potluck node {NAME}"
    assert (told["ExecutionTimeLimit"], told["RunLevel"]) == ("PT0S", "LeastPrivilege")
    assert any("setx" in sentence and "POTLUCK_DATA" in sentence for sentence in task.advice)


@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize("word", ["two\nlines", "nul\0", "bell\x07", os.fsdecode(b"\xff")])
def test_what_no_file_can_hold_is_refused(system: str, word: str, tmp_path: Path) -> None:
    with pytest.raises(PotluckError, match="control characters"):
        service(system, ["python", word], tmp_path)


def test_other_systems_are_refused(tmp_path: Path) -> None:
    with pytest.raises(PotluckError, match="on Linux with systemd, on macOS and on Windows, but not here"):
        service("freebsd14", ["python"], tmp_path)


def test_every_name_has_a_label_of_its_own() -> None:
    names = ["anna", "an na", "an/na", "an-na", "../etc", "", "Ä", "Ö", "a.b", "a%b", "anna@home"]
    labels = [label_of(name) for name in names]
    assert len(set(labels)) == len(names)
    assert all(re.fullmatch(r"[A-Za-z0-9_-]+", label) for label in labels)
    assert labels[0] == "anna"
