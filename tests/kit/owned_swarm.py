"""A coordinator of its own for one test, and what its owner does with it on the command line."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from kit.processes import ONE_THREAD, potluck
from potluck.local import HANG_S, Process


@dataclass
class Swarm:
    """A coordinator with a data folder of its own, which is this machine's owner's."""

    coordinator: Process
    data: Path

    def __post_init__(self) -> None:
        self.url = re.findall(r"http://\S+", self.coordinator.wait_for("Serving "))[0]
        self.admin_key = Path(self.coordinator.wait_for("Your own is in ")[15:-1]).read_text().strip()

    def run(self, *command: object) -> str:
        """What a command of the owner prints."""
        done = potluck(*command)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def invite(self, *options: object) -> str:
        """The URL to join with."""
        url: str = re.findall(r'potluck join "(\S+)"', self.run("invite", "create", self.url, *options))[0]
        return url

    def new_key(self, *options: object) -> str:
        return self.run("key", "create", self.url, *options).splitlines()[0]

    def join(self, url: str, name: str) -> Process:
        return Process(["join", url, "0-5", "--name", name, *ONE_THREAD], POTLUCK_DATA=str(self.data / name))

    def ask(self, path: str, key: str = "", **request: Any) -> httpx.Response:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        return httpx.request(
            "POST" if request else "GET", f"{self.url}{path}", headers=headers, timeout=HANG_S, **request
        )

    def nodes(self) -> list[str]:
        return [
            node["name"] for node in self.ask("/status", self.admin_key).json()["nodes"] if node["state"] == "ready"
        ]
