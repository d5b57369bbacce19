"""A node is made to start at login, and that is undone, with a recorder in place of the system's programs."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from kit.processes import complaint, finish, potluck
from potluck.commands import autostart
from potluck.commands.autostart import run_program, start_at_login, stay_away
from potluck.commands.login import SYSTEMS, Service, service_of
from potluck.errors import PotluckError
from potluck.node.kept_invite import kept_invite

URL = "http://192.168.1.5:8470"


class Recorder:
    """Notes what would be run. Fails where a word is in `failing`."""

    def __init__(self, *failing: str) -> None:
        self.ran: list[tuple[str, ...]] = []
        self._failing = set(failing)

    def __call__(self, words: Sequence[str]) -> str | None:
        self.ran.append(tuple(words))
        return f"{words[0]} failed: it had to" if self._failing.intersection(words) else None


@pytest.fixture(params=SYSTEMS)
def system(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each system in turn, with a folder as home."""
    data = tmp_path / "data"
    monkeypatch.setenv("POTLUCK_DATA", str(data))

    def service(name: str, command: Sequence[str]) -> Service:
        return service_of(request.param, name, command, tmp_path, data, {"USERNAME": "anna"})

    monkeypatch.setattr(autostart, "_service", service)
    return str(request.param)


def only_file(folder: Path) -> Path:
    [path] = (path for path in folder.rglob("*") if path.suffix in (".service", ".plist", ".xml"))
    return path


def test_a_node_is_installed_again_and_removed(system: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for memory in ("6G", "7G"):
        recorder = Recorder()
        assert start_at_login(f"{URL}/#SECRET.KEY", "anna", "3-4", [f"--memory={memory}"], recorder)
        path = only_file(tmp_path)
        told = capsys.readouterr().out
        assert f"The node anna starts now, and whenever you log in: {path} says so.\n" in told
        assert "\nTo undo this: potluck service remove --name anna\n" in told
        assert all(word in told for word in ("To watch it", "To stop it", "To start it again"))
        text = path.read_bytes().decode("utf-16" if system == "win32" else "utf-8")
        assert f"--memory={memory}" in text
        assert URL in text
        assert "SECRET" not in text + told + str(recorder.ran)
        if os.name == "posix":
            assert path.stat().st_mode & 0o777 == 0o600
    assert kept_invite("anna", URL) == "SECRET.KEY"

    recorder = Recorder()
    stay_away("anna", recorder)
    assert capsys.readouterr().out == "The node anna has ended, and does not start at login any more.\n"
    assert recorder.ran
    assert not path.exists()
    assert kept_invite("anna", URL) == ""
    with pytest.raises(PotluckError, match=r"^No node named 'anna' starts at login: there is no "):
        stay_away("anna", recorder)


def test_what_the_systems_are_told(system: str) -> None:
    recorder = Recorder()
    start_at_login(URL, "anna", None, [], recorder)
    stay_away("anna", recorder)
    verbs = [next(word for word in words[1:] if not word.startswith("--")) for words in recorder.ran]
    assert (
        verbs
        == {
            "linux": ["daemon-reload", "enable", "restart", "disable", "daemon-reload"],
            "darwin": ["bootout", "bootstrap", "bootout"],
            "win32": ["/End", "/Create", "/Run", "/End", "/Delete"],
        }[system]
    )


def test_a_program_that_fails_is_told_with_what_is_left_to_do(
    system: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    failing = {"linux": "enable", "darwin": "bootstrap", "win32": "/Create"}[system]
    assert not start_at_login(URL, "anna", None, [], Recorder(failing))
    told = capsys.readouterr().out
    assert f"{only_file(tmp_path)} is written, but the node does not start yet: " in told
    assert " failed: it had to. Run this where it works: " in told
    stay_away("anna", Recorder("disable", "bootout", "/Delete"))
    told = capsys.readouterr().out
    assert told.startswith("The node anna ")
    assert ("may run until you log out: " in told) == (system != "darwin")  # bootout fails where nothing is loaded
    assert not list(tmp_path.rglob("*.plist"))


def test_nothing_to_do_may_fail(system: str) -> None:
    assert start_at_login(URL, "anna", None, [], Recorder("bootout", "/End"))


def test_a_folder_that_cannot_be_written_is_complained_of(system: str, tmp_path: Path) -> None:
    for name in (".config", "Library", "data"):
        (tmp_path / name).write_text("a file where the folder should be")
    with pytest.raises(PotluckError, match=r" cannot be written: .*\.$"):
        start_at_login(URL, "anna", None, [], Recorder())


def test_a_program_of_the_system_is_run() -> None:
    assert run_program([sys.executable, "-c", ""]) is None
    script = "import sys; print('first', file=sys.stderr); sys.exit('No bus.')"
    assert run_program([sys.executable, "-c", script]) == f"{sys.executable} failed: No bus"
    assert run_program([sys.executable, "-c", "raise SystemExit(3)"]) == f"{sys.executable} failed: 3"
    assert run_program(["no-such-program"]) == "There is no no-such-program here"


@pytest.fixture
def linux(tmp_path: Path) -> dict[str, str]:
    """An environment with a folder as home, and a recorder as systemctl."""
    if sys.platform != "linux":
        pytest.skip("These are the programs of Linux.")
    program = tmp_path / "bin" / "systemctl"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\necho "$@" >> "{tmp_path}/ran"\n')
    program.chmod(0o755)
    kept = {key: value for key, value in os.environ.items() if key not in ("XDG_CONFIG_HOME", "SSL_CERT_FILE")}
    path = f"{program.parent}{os.pathsep}{kept['PATH']}"
    return {**kept, "HOME": str(tmp_path), "POTLUCK_DATA": str(tmp_path / "data"), "PATH": path}


def test_the_command_takes_the_options_of_join(linux: dict[str, str], tmp_path: Path) -> None:
    """Also one that the environment chose, as POTLUCK_ON_BATTERY does in tests."""
    options = ["--memory", "6G", "--upload", "2.5", "--idle-only", "--model", "m.gguf", "--cache-limit", "50G"]
    done = potluck("service", "install", f"{URL}/#SECRET.KEY", "3-4", "--name", "a b", *options, env=linux)
    assert done.returncode == 0, done.stderr
    text = only_file(tmp_path).read_text("utf-8")
    [line] = (line for line in text.splitlines() if line.startswith("ExecStart="))
    assert line == (
        f'ExecStart="{sys.executable}" "-P" "-m" "potluck" "join" "{URL}" "3-4" "--name=a b" "--memory=6G" '
        f'"--model={Path("m.gguf").absolute()}" "--upload=2.5" "--idle-only" "--on-battery"'
    )
    assert (tmp_path / "ran").read_text().splitlines()[0] == "--user daemon-reload"
    assert "The limit is 51,200.0 MiB" in potluck("models", "limit", env=linux).stdout
    done = potluck("service", "remove", "--name", "a b", env=linux)
    assert (done.returncode, done.stderr) == (0, "")
    potluck("models", "limit", "none", env=linux)


def test_a_node_that_guesses_can_start_at_login_too(linux: dict[str, str], tmp_path: Path) -> None:
    small = tmp_path / "small.gguf"
    small.touch()
    relative = os.path.relpath(small)
    for guesser, named in ((relative, str(Path(relative).absolute())), ("hf:OWNER/SMALL:Q8_0", "hf:OWNER/SMALL:Q8_0")):
        done = potluck("service", "install", URL, "--name", "zoe", "--guesser", guesser, env=linux)
        assert done.returncode == 0, done.stderr
        [line] = (line for line in only_file(tmp_path).read_text("utf-8").splitlines() if line.startswith("ExecStart="))
        assert line.endswith(f'"{URL}" "--name=zoe" "--on-battery" "--guesser={named}"')
    told = complaint("service", "install", URL, "--guesser", "x.gguf", "--no-gpu")
    assert told == "A node with --guesser serves no layers, so it does not take --no-gpu."


def test_where_systemd_is_not_the_command_says_what_to_run(linux: dict[str, str], tmp_path: Path) -> None:
    done = potluck("service", "install", URL, "--name", "anna", env={**linux, "PATH": str(tmp_path)})
    assert done.returncode == 1
    assert "does not start yet: There is no systemctl here. Run this where it works: systemctl --user" in done.stdout
    assert only_file(tmp_path).exists()


def test_what_is_wrong_is_said_before_anything_is_written(linux: dict[str, str], tmp_path: Path) -> None:
    for wrong in (["http://["], [URL, "x"], [URL, "--memory", "much"], [URL, "--hours", "night"]):
        done = finish(sys.executable, "-m", "potluck", "service", "install", *wrong, env=linux)
        assert done.returncode == 1
        assert done.stderr.startswith("potluck: ")
        assert len(done.stderr.splitlines()) == 1
    assert not list(tmp_path.rglob("*.service"))
    assert "Missing argument" in finish(sys.executable, "-m", "potluck", "service", "install", env=linux).stderr


def test_without_a_url_only_a_terminal_is_asked() -> None:
    assert complaint("join") == "Name the coordinator: potluck join URL. Only at a terminal can you be asked for it."
