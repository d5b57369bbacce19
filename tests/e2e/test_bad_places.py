"""Folders that are files, files that are folders, and a machine without a home: one sentence says which and what to
do.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from kit.processes import LOCAL, PYTHON, finish, potluck
from potluck.local import LocalSwarm

FOLDERS = ("POTLUCK_CACHE", "POTLUCK_DATA", "XDG_CACHE_HOME", "XDG_DATA_HOME", "HF_HOME", "HF_TOKEN_PATH")
ELSEWHERE = "Set POTLUCK_CACHE to a folder that can."


@pytest.fixture
def no_folder(tmp_path: Path) -> Path:
    """A path below a file."""
    (tmp_path / "notes.txt").write_text("Bring a salad.")
    return tmp_path / "notes.txt" / "potluck"


Settings = dict[str, Path | str | None]
"""Variables of the environment; None stands for one that is not set."""


def environment(settings: Settings) -> dict[str, str]:
    changed = {**os.environ, **settings}
    return {name: str(value) for name, value in changed.items() if value is not None}


def complaint_with(settings: Settings, *command: object) -> str:
    """The one sentence with which a command ends in this environment."""
    done = potluck(*command, env=environment(settings))
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    [line] = done.stderr.strip().splitlines()
    return line.removeprefix("potluck: ")


@pytest.mark.parametrize("setting", ["POTLUCK_CACHE", "XDG_CACHE_HOME"])
def test_a_cache_below_a_file(tiny: Path, tmp_path: Path, no_folder: Path, setting: str) -> None:
    settings: Settings = {"POTLUCK_DATA": tmp_path / "data", "POTLUCK_CACHE": None, setting: no_folder}
    for command in (("serve", tiny, "--port", 0, *LOCAL), ("models", "limit", "1G")):
        told = complaint_with(settings, *command)
        assert told.startswith(str(no_folder))
        assert told.endswith(f" cannot be written: Not a directory. {ELSEWHERE}")


@pytest.mark.parametrize("place", ["below a file", "a file", "a link to nowhere"])
def test_a_cache_of_a_node_that_is_none(tiny_swarm: LocalSwarm, tmp_path: Path, no_folder: Path, place: str) -> None:
    link = tmp_path / "link"
    link.symlink_to(no_folder)
    cache = {"below a file": no_folder, "a file": no_folder.parent, "a link to nowhere": link}[place]
    told = complaint_with({"POTLUCK_CACHE": cache}, "join", tiny_swarm.url, "0", "--on-battery")
    assert told.startswith(str(cache))
    assert told.endswith(ELSEWHERE)


@pytest.mark.parametrize("setting", ["POTLUCK_DATA", "XDG_DATA_HOME"])
def test_data_below_a_file(tiny: Path, no_folder: Path, setting: str) -> None:
    settings: Settings = {"POTLUCK_DATA": None, setting: no_folder}
    for command in (("serve", tiny, "--port", 0, *LOCAL), ("join", "http://127.0.0.1:1")):
        told = complaint_with(settings, *command)
        assert told.startswith(f"The key cannot be kept in {no_folder}")
        assert told.endswith("Not a directory. POTLUCK_DATA may name another folder.")


def test_a_key_and_a_database_that_are_folders(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "one" / "coordinator.key").mkdir(parents=True)
    (tmp_path / "one" / "coordinator.key").chmod(0o700)
    told = complaint_with({"POTLUCK_DATA": tmp_path / "one"}, "serve", tiny, "--port", 0, *LOCAL)
    assert told.startswith(f"The key cannot be kept in {tmp_path}/one/coordinator.key: Is a directory.")
    (tmp_path / "two" / "potluck.db").mkdir(parents=True)
    told = complaint_with({"POTLUCK_DATA": tmp_path / "two"}, "serve", tiny, "--port", 0, *LOCAL)
    assert told.startswith("The database cannot be opened: ")
    told = complaint_with({}, "serve", tiny, "--port", 0, "--tls-cert", tmp_path, "--tls-key", tmp_path)
    assert told == "TLS cannot be spoken with these files: Is a directory."
    ghost = tmp_path / "ghost.pem"
    told = complaint_with({}, "serve", tiny, "--port", 0, "--tls-cert", ghost, "--tls-key", ghost)
    assert told == "TLS cannot be spoken with these files: No such file or directory."


@pytest.mark.parametrize("home", ["a file", "no folder"])
def test_a_home_that_is_none(tiny: Path, no_folder: Path, tmp_path: Path, home: str) -> None:
    """What needs no home does without it, and what does says where it may be."""
    place = {"a file": no_folder.parent, "no folder": no_folder}[home]
    settings: Settings = dict.fromkeys(FOLDERS)
    settings |= {"HOME": place, "HF_ENDPOINT": "http://127.0.0.1:1"}
    assert "POTLUCK_DATA may name" in complaint_with(settings, "serve", tiny, "--port", 0, *LOCAL)
    assert "gives no model owner/name" in complaint_with(settings, "plan", "owner/name", "8G")
    assert potluck("plan", tiny, "8G", env=environment(settings)).returncode == 0


def test_temporary_files_that_have_no_place(tiny_swarm: LocalSwarm) -> None:
    """The nodes of a machine meet among them. Python takes /tmp where TMPDIR is none, so that /tmp is taken away."""
    program = "import tempfile; tempfile.tempdir = '/dev/null/x'; from potluck.cli import main; main()"
    done = finish(*PYTHON, "-c", program, "join", tiny_swarm.url, "0", "--on-battery")
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1].startswith("potluck: /dev/null/x")
    assert "Traceback" not in done.stderr


def test_a_token_that_cannot_be_read(tmp_path: Path) -> None:
    settings: Settings = {"HF_TOKEN_PATH": tmp_path, "HF_TOKEN": None, "HF_ENDPOINT": "http://127.0.0.1:1"}
    told = complaint_with(settings, "plan", "owner/name", "8G")
    assert "the token for the hub cannot be read" in told
