"""`potluck doctor`: what follows from what was read, and one real run of the command."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from kit.processes import potluck
from potluck import __version__
from potluck.commands import findings as check
from potluck.commands.contact import Contact, Coordinator, NoUrl, Stranger, Unreachable, ahead, contact
from potluck.commands.findings import Finding, Note, Ok, Wrong, findings
from potluck.commands.readings import Folder, Memory, Processor, Readings, Software, read_folder, without_home
from potluck.engine.library_report import BrokenLibrary, Gpu, Library, parse_kernels, read_library

GIB = 1 << 30

SOFTWARE = Software("0.1.0", "CPython 3.12.1", 64, "Linux-6.1", "~/venv", {})
LIBRARY = Library(
    "llama-cpp-python 0.3.36",
    "compiled for this CPU",
    "0.5.0",
    "0.25.3",
    "5a1e",
    ("AVX", "AVX2", "FMA"),
    False,
    (),
    True,
)
PROCESSOR = Processor("a CPU", 8, 0.1, "fpu avx avx2 fma")
MEMORY = Memory(10 * GIB, 16 * GIB)
CACHE = Folder("~/.cache/potluck", "POTLUCK_CACHE", True, GIB, 50 * GIB)
DATA = Folder("~/.local/share/potluck", "POTLUCK_DATA", True, 0, 50 * GIB)
HERE = Coordinator("http://127.0.0.1:8470", 0.001, 0.2, "0.1.0")


def healthy(contact: Contact | None = HERE) -> Readings:
    return Readings(SOFTWARE, LIBRARY, PROCESSOR, MEMORY, (), CACHE, DATA, contact)


def test_a_machine_on_which_nothing_is_wrong() -> None:
    found = findings(healthy())
    assert all(isinstance(each, Ok) for each in found), found
    subjects = ["Potluck", "llama.cpp", "kernels", "GPU", "processor", "memory", "cache", "data"]
    assert [each.subject for each in found] == [*subjects, "coordinator", "versions", "clock"]


def test_without_a_url_no_coordinator_is_judged() -> None:
    assert len(findings(healthy(None))) == len(findings(healthy())) - 3


def with_features(features: str) -> Processor:
    return Processor("a CPU", 8, 0.1, features)


@pytest.mark.parametrize(
    ("finding", "kind", "word"),
    [
        (check.software(Software("0.1.0", "CPython 3.12.1", 32, "Windows-10", "~", {})), Wrong, "32 bits"),
        (check.kernels(LIBRARY, with_features("avx2 avx512f amx_tile")), Note, "without AVX512, which"),
        (check.kernels(LIBRARY, with_features("asimddp i8mm")), Note, "without DOTPROD, MATMUL_INT8, which"),
        (check.kernels(LIBRARY, with_features("")), Ok, "AVX, AVX2, FMA."),
        (
            check.kernels(Library("1", "2", "3", "4", "5", (), False, (), False), with_features("")),
            Note,
            "C code was not compiled",
        ),
        (check.gpu(LIBRARY, ()), Ok, "on the CPU"),
        (check.gpu(LIBRARY, ("NVIDIA T4",)), Note, "does not use NVIDIA T4"),
        (check.gpu(Library("1", "2", "3", "4", "5", (), True, (), True), ()), Note, "finds none"),
        (
            check.gpu(
                Library("1", "2", "3", "4", "5", (), True, (Gpu("NVIDIA T4", 15 * GIB, 16 * GIB),), True),
                ("NVIDIA T4",),
            ),
            Ok,
            "computes on NVIDIA T4 (15.0 GiB of 16.0 GiB free)",
        ),
        (check.processor(Processor("a CPU", 8, 0.75, "")), Note, "2.0 of 8 cores are free"),
        (check.memory(Memory(GIB, 16 * GIB)), Note, "1.0 GiB of 16.0 GiB"),
        (check.memory(Memory(GIB // 4, 16 * GIB)), Wrong, "0.2 GiB of 16.0 GiB"),
        (check.folder("cache", Folder("~/c", "POTLUCK_CACHE", True, 0, 5 * GIB)), Note, "5.0 GiB are free"),
        (check.folder("cache", Folder("~/c", "POTLUCK_CACHE", True, 0, 1 << 20)), Wrong, "0.0 GiB are free"),
        (check.folder("data", Folder("~/d", "POTLUCK_DATA", False, 0, 50 * GIB)), Wrong, "~/d cannot be written"),
        (check.versions("0.1.0", "0.2.0"), Note, "This is Potluck 0.1.0, and the coordinator runs 0.2.0"),
        (check.versions("0.1.0", None), Note, "only to those who have a key"),
        (check.clock(-3.0), Ok, "agree"),
        (check.clock(-30.0), Note, "30 s behind"),
        (check.clock(125.4), Wrong, "125 s ahead of"),
        (check.clock(None), Note, "does not send its time"),
    ],
)
def test_what_follows(finding: Finding, kind: type[Finding], word: str) -> None:
    assert isinstance(finding, kind)
    assert word in finding.says
    assert finding.says.endswith(".")
    assert isinstance(finding, Ok) or finding.advice


def test_a_library_that_cannot_be_used_is_wrong_and_nothing_is_said_of_its_kernels() -> None:
    broken = BrokenLibrary("it ends the process that loads it (SIGILL)")
    found = findings(Readings(SOFTWARE, broken, PROCESSOR, MEMORY, ("NVIDIA T4",), CACHE, DATA, None))
    [wrong] = [each for each in found if isinstance(each, Wrong)]
    assert wrong.says == "The library cannot be used: it ends the process that loads it (SIGILL)."
    assert not {"kernels", "GPU"} & {each.subject for each in found}


@pytest.mark.parametrize(
    ("contact", "word"),
    [
        (NoUrl(), "not a coordinator's URL"),
        (Unreachable("http://127.0.0.1:1", "Connection refused"), "http://127.0.0.1:1: Connection refused."),
        (Stranger("http://127.0.0.1:80", 404, ""), "status 404, but it is not a Potluck coordinator"),
        (
            Stranger("http://potluck:80", 403, "This swarm is for its own machine."),
            "This swarm is for its own machine.",
        ),
    ],
)
def test_a_coordinator_that_is_not_reached_is_the_only_finding_about_it(contact: Contact, word: str) -> None:
    [finding] = check.coordinator(contact, "0.1.0")
    assert isinstance(finding, Wrong)
    assert word in finding.says


def test_the_kernels_are_those_that_are_built_in() -> None:
    told = "CUDA : ARCHS = 750 | USE_GRAPHS = 1 | CPU : SSE3 = 1 | AVX2 = 1 | AVX512 = 0 | REPACK = 1 | "
    assert parse_kernels(told) == ("USE_GRAPHS", "SSE3", "AVX2", "REPACK")


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGILL)", "it ends the process that loads it (SIGILL)"),
        ("import none_such", "ModuleNotFoundError: No module named 'none_such'"),
        ("raise SystemExit(3)", "the process that loads it ends with 3"),
    ],
)
def test_a_library_that_kills_its_process_is_found_out(program: str, reason: str) -> None:
    assert read_library((sys.executable, "-c", program)) == BrokenLibrary(reason)


def test_the_library_of_this_machine_loads() -> None:
    library = read_library()
    assert isinstance(library, Library)
    assert library.kernels


def test_a_folder_that_is_not_there_yet_can_be_made(tmp_path: Path) -> None:
    folder = read_folder(tmp_path / "not" / "yet", "POTLUCK_CACHE")
    assert (folder.writable, folder.used) == (True, 0)
    assert folder.free > 0


def test_the_files_of_a_folder_are_counted(tmp_path: Path) -> None:
    (tmp_path / "spans").mkdir()
    (tmp_path / "spans" / "0-9.gguf").write_bytes(bytes(1000))
    assert read_folder(tmp_path, "POTLUCK_CACHE").used == 1000


def test_a_file_in_the_place_of_a_folder_is_found(tmp_path: Path) -> None:
    (tmp_path / "cache").touch()
    assert not read_folder(tmp_path / "cache" / "potluck", "POTLUCK_CACHE").writable


@pytest.mark.parametrize(
    ("home", "text", "told"),
    [
        ("/home/anna", "/home/anna/.cache: no /home/anna", "~/.cache: no ~"),
        ("/home/anna", "/home/annabel/.cache and /home/anna-2", "/home/annabel/.cache and /home/anna-2"),
        ("/", "/cache", "/cache"),
    ],
)
def test_the_home_folder_is_not_named(home: str, text: str, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", home)
    assert without_home(text) == told


@pytest.mark.parametrize(
    ("date", "told"),
    [
        ("Thu, 26 Nov 2026 15:00:00 GMT", 0.5),
        ("Thu, 26 Nov 2026 14:58:00 GMT", 120.5),
        ("Thu, 26 Nov 2026 15:01:00 GMT", -59.5),
        ("yesterday", None),
        (None, None),
    ],
)
def test_the_clocks_are_compared_in_the_middle_of_a_request(date: str | None, told: float | None) -> None:
    three_o_clock = 1795705200.0
    assert ahead(date, three_o_clock, three_o_clock + 2) == told


GAP = ("the gap. " * 100)[: 200 - len("[2JMind ")]
Answers = dict[str, tuple[int, object]]
COORDINATOR: Answers = {
    "/health": (200, {"status": "ok"}),
    "/openapi.json": (200, {"info": {"title": "Potluck", "version": "9.9"}}),
}


@contextmanager
def serving(answers: Answers, ahead_s: float = 0.0) -> Iterator[tuple[int, list[str]]]:
    """A server with these answers, whose clock is ahead. Its port, and what it is shown as keys."""
    keys: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            keys.append(self.headers.get("Authorization", ""))
            status, body = answers.get(self.path, (404, {}))
            self.send_response(status)
            self.end_headers()
            self.wfile.write(json.dumps(body).encode())

        def date_time_string(self, timestamp: float | None = None) -> str:
            return formatdate(time.time() + ahead_s, usegmt=True)

        def log_message(self, *_: object) -> None:
            """Silent."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server.server_address[1], keys
        finally:
            server.shutdown()
            thread.join()


def test_a_coordinator_tells_its_version_and_its_clock() -> None:
    with serving(COORDINATOR, ahead_s=300.0) as (port, _):
        found = contact(f"http://127.0.0.1:{port}", "pk-1")
    assert isinstance(found, Coordinator)
    assert (found.url, found.version) == (f"http://127.0.0.1:{port}", "9.9")
    assert found.ahead_s == pytest.approx(-300.0, abs=60.0)


def test_a_coordinator_without_the_right_key_does_not_tell_its_version() -> None:
    answers = {**COORDINATOR, "/openapi.json": (401, {"error": {"message": "This swarm is private."}})}
    with serving(answers) as (port, _):
        found = contact(f"http://127.0.0.1:{port}", "pk-1")
    assert isinstance(found, Coordinator)
    assert found.version is None


@pytest.mark.parametrize(
    ("answers", "status", "message"),
    [
        ({}, 404, ""),
        ({"/health": (200, ["ok"])}, 200, ""),
        ({"/health": (403, {"error": {"message": "Ask it as 127.0.0.1."}})}, 403, "Ask it as 127.0.0.1."),
        ({"/health": (403, {"error": "no"})}, 403, ""),
        ({"/health": (403, {"error": {"message": "\x1b[2JMind " + "the gap. " * 100}})}, 403, "[2JMind " + GAP),
        ({**COORDINATOR, "/openapi.json": (200, {"info": {"title": "Petstore"}})}, 200, ""),
        ({**COORDINATOR, "/openapi.json": (200, {"info": ["Potluck"]})}, 200, ""),
    ],
)
def test_who_is_no_coordinator_is_told_from_one(answers: Answers, status: int, message: str) -> None:
    with serving(answers) as (port, _):
        assert contact(f"http://127.0.0.1:{port}", "pk-1") == Stranger(f"http://127.0.0.1:{port}", status, message)


def test_a_stranger_is_not_shown_the_key() -> None:
    with serving({}) as (port, keys):
        contact(f"http://127.0.0.1:{port}", "pk-1")
    assert keys == [""]


def test_nobody_at_the_address() -> None:
    with serving({}) as (port, _):
        pass
    found = contact(f"http://anna:secret@127.0.0.1:{port}/#invite", "pk-1")
    assert isinstance(found, Unreachable)
    assert found.url == f"http://127.0.0.1:{port}"
    assert "secret" not in found.reason


@pytest.mark.parametrize("text", ["http://:8470", "ftp://127.0.0.1", "http://127.0.0.1:port/#invite", ""])
def test_what_is_no_url_is_not_repeated(text: str) -> None:
    assert contact(text, "") == NoUrl()


def run(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    return potluck("doctor", *arguments, env={**os.environ, **env})


@pytest.fixture
def home(tmp_path: Path) -> dict[str, str]:
    """The environment of somebody with secrets."""
    folder = tmp_path / "anna-surname"
    for data in (folder / ".local/share/potluck", folder / "Library/Application Support/potluck"):
        data.mkdir(parents=True)
        (data / "admin.key").write_text("pk-owner")
    places = {"POTLUCK_CACHE": f"{folder}/cache", "POTLUCK_DATA": f"{folder}/data"}
    return {"HOME": str(folder), "POTLUCK_KEY": "pk-secret", **places}


def test_a_report_for_programs_has_all_and_no_secret(home: dict[str, str]) -> None:
    with serving(COORDINATOR) as (port, _):
        done = run("--json", f"http://anna:password@127.0.0.1:{port}/#invite.key", **home)
    told = json.loads(done.stdout)
    assert {each["level"] for each in told["findings"]} <= {"ok", "note", "wrong"}
    assert all(each.keys() == {"level", "subject", "says"} for each in told["findings"] if each["level"] == "ok")
    readings = told["readings"]
    assert (readings["software"]["potluck"], readings["contact"]["version"]) == (__version__, "9.9")
    assert readings["library"]["kernels"]
    assert readings["cache"]["path"] == "~/cache"
    for secret in ("anna", "surname", "password", "invite", "pk-"):
        assert secret not in done.stdout + done.stderr
    assert done.returncode == any(each["level"] == "wrong" for each in told["findings"])


@pytest.mark.parametrize("offset_s", [0.0, 3600.0], ids=["right", "an hour ahead"])
def test_the_screen_and_the_exit_status(home: dict[str, str], offset_s: float) -> None:
    with serving(COORDINATOR, offset_s) as (port, _):
        done = run(f"http://127.0.0.1:{port}", **home, COLUMNS="80")
    lines = [line.rstrip() for line in done.stdout.splitlines()]
    wrong = [line for line in lines if line.startswith("wrong")]
    assert len(lines) <= 30
    assert max(map(len, lines)) <= 80
    assert any(line.startswith("wrong") and "clock" in line for line in lines) == bool(offset_s)
    assert done.returncode == bool(wrong)
    assert done.stderr == ""
    assert lines[-1].endswith("wrong.")
