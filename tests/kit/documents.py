"""The commands that the documents show, as a reader would take them, and ways to run them."""

from __future__ import annotations

import re
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from kit.processes import finish
from potluck.local import HANG_S

ROOT = Path(__file__).parents[2]

_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_FIRST_WORD = re.compile(r"[^\w ]*[A-Za-z]*")


@dataclass(frozen=True)
class Command:
    """language: `sh`, or that of the block, all of whose text is one command then.

    typed: what goes into it. shown: the output's first line, where the document has one.
    """

    text: str
    typed: str = ""
    shown: str = ""
    language: str = "sh"


def commands(document: str) -> Iterator[Command]:
    """What the document's blocks say to run: each line of `sh`, what stands behind `$ `, or a whole block.

    A block without a language and without a `$ ` shows a text or an output.
    """
    for language, block in _BLOCK.findall(document):
        whole = re.sub(r"\\\n\s*", "", block)
        match language:
            case "sh":
                yield from map(Command, whole.splitlines())
            case "":
                yield from _transcript(whole)
            case _:
                yield Command(block, language=language)


def _transcript(block: str) -> Iterator[Command]:
    for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
        text, *shown = part.splitlines()
        yield Command(text, "".join(f"{line[2:]}\n" for line in shown if line.startswith("> ")), *shown[:1])


def filled(text: str, substitutions: Mapping[str, str]) -> str:
    """The text with what differs from machine to machine in place of what the document shows: patterns to strings."""
    for pattern, value in substitutions.items():
        text = re.sub(pattern, value.replace("\\", r"\\"), text)
    return text


def run_command(command: Command, folder: Path, env: Mapping[str, str], timeout: float = HANG_S) -> str:
    """Run it to its end, which must be a good one, and give what it said: it begins with the word that is shown."""
    interpreter = ["python3"] if command.language == "python" else ["bash", "-o", "pipefail"]
    done = finish(
        *interpreter,
        "-c",
        command.text,
        stdin=command.typed,
        stderr=subprocess.STDOUT,
        cwd=folder,
        env=env,
        timeout_s=timeout,
    )
    assert done.returncode == 0, f"{command.text}\n{done.stdout}"
    word = _FIRST_WORD.match(command.shown)
    assert word is not None
    assert done.stdout.startswith(word[0]), done.stdout
    return done.stdout


class Running(AbstractContextManager["Running"]):
    """A command that stays until Ctrl-C, which must end it well. Its output goes to a file in the folder."""

    def __init__(self, text: str, folder: Path, env: Mapping[str, str]) -> None:
        self._text = text
        self._log = folder / f"{time.monotonic_ns()}.log"
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                ["bash", "-c", f"exec {text}"],  # the signal is for the command, not for the shell
                cwd=folder,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                process_group=0,
            )

    @property
    def told(self) -> str:
        return self._log.read_text("utf-8")

    def wait_for(self, pattern: str) -> str:
        """What the pattern finds in the output, as soon as it is there."""
        deadline = time.monotonic() + HANG_S
        while (found := re.search(pattern, self.told)) is None:
            assert self._process.poll() is None, f"{self._text}\n{self.told}"
            assert time.monotonic() < deadline, f"{self._text}\n{self.told}"
            time.sleep(0.05)
        return found[found.re.groups]

    def __exit__(self, *error: object) -> None:
        self._process.send_signal(signal.SIGINT)
        try:
            status = self._process.wait(HANG_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            raise
        if error[0] is None:
            assert status == 0, f"{self._text}\n{self.told}"
