"""A fleet of coordinators as processes of this machine, with a NATS server and a database of its own."""

from __future__ import annotations

import re
import secrets
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any

import httpx
import openai
from sqlalchemy import create_engine, text

from kit.nats_servers import NatsServer
from kit.postgres import Server
from kit.processes import ONE_THREAD, PRIVATE, free_port
from kit.waiting import eventually
from potluck.local import HANG_S, POTLUCK, Process
from potluck.wire.identity import Identity


class Member:
    """One coordinator, which may be killed and started again with its key, its address and what its disk holds."""

    def __init__(
        self,
        fleet: LocalFleet,
        name: str,
        words: Sequence[str],
        nats: str,
        database: str,
        program: Sequence[str] = POTLUCK,
    ) -> None:
        self.fleet = fleet
        self._program = program
        self.data = fleet.folder / name
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.words = [*words, "--port", str(self.port), *PRIVATE, "--database", database, "--fleet", nats]
        self.data.mkdir(mode=0o700)
        (self.data / "fleet.key").write_bytes((fleet.folder / "fleet.key").read_bytes())
        (self.data / "fleet.key").chmod(0o600)

    def start(self) -> None:
        self.process = Process(["serve", *self.words], program=self._program, POTLUCK_DATA=str(self.data))

    def kill(self) -> None:
        """End it as a power cut does."""
        self.process.popen.kill()
        self.process.wait()

    def wait_up(self) -> None:
        self.process.wait_for("Your own is in")
        eventually(self.answers)

    def answers(self) -> bool:
        try:
            return httpx.get(f"{self.url}/health", timeout=HANG_S).is_success
        except httpx.TransportError:
            return False

    @property
    def key(self) -> str:
        """The owner's API key, which opens all coordinators."""
        return (self.data / "admin.key").read_text().strip()

    @property
    def invite(self) -> str:
        """The URL with which a new node joins here."""
        [url] = re.findall(r'potluck join "?([^"\s]+)', "\n".join(self.process.lines))
        return str(url)

    def ask(self, path: str, key: str = "", method: str = "", **request: Any) -> httpx.Response:
        headers = {"Authorization": f"Bearer {key or self.key}"}
        method = method or ("POST" if request else "GET")
        return httpx.request(method, f"{self.url}{path}", headers=headers, timeout=HANG_S, **request)

    def new_key(self, account: str, per_minute: int = 0) -> str:
        """A new API key of this account."""
        return str(self.ask("/v1/admin/keys", json={"account": account, "per_minute": per_minute}).json()["secret"])

    def revoke(self, account: str) -> None:
        """Revoke all keys of this account."""
        for key in self.ask("/v1/admin/keys").json()["keys"]:
            if key["account"] == account:
                self.ask(f"/v1/admin/keys/{key['id']}", method="DELETE")

    def client(self, key: str = "") -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=key or self.key, max_retries=0, timeout=HANG_S)

    def seen(self) -> dict[str, list[bool]]:
        """For each coordinator that it knows, its own first, whether each model is covered there."""
        told = self.ask("/fleet").json()["coordinators"]
        return {each["url"]: [model["covered"] for model in each["models"]] for each in told}

    def covers(self) -> list[bool]:
        """Whether each of its models is covered."""
        told = self.ask("/status").json()
        return [one["covered"] for one in told.get("models", [told])]

    def nodes(self) -> list[str]:
        """The names of the nodes that serve here."""
        told = self.ask("/status").json()
        return [node["name"] for one in told.get("models", [told]) for node in one["nodes"] if node["state"] == "ready"]

    def covered(self) -> bool:
        return all(self.covers())


def _new_database(postgres: Server) -> str:
    """The URL of a new, empty database."""
    name = f"fleet_{secrets.token_hex(4)}"
    engine = create_engine(postgres.url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    engine.dispose()
    return postgres.url.removesuffix("/postgres") + f"/{name}"


class LocalFleet(AbstractContextManager["LocalFleet"]):
    """A fleet in this folder, with a database of its own at this server."""

    def __init__(self, folder: Path, nats: NatsServer, postgres: Server) -> None:
        self.folder = folder
        self.nats = nats
        self.postgres = postgres
        self.database = _new_database(postgres)
        self.members: list[Member] = []
        self._ended = ExitStack()
        self.nodes: list[Process] = []
        Identity.load(folder / "fleet.key")

    def add(self, *models: Path, **choices: Any) -> Member:
        """A coordinator of these models, which answers. choices: those of `begin`."""
        member = self.begin(*models, **choices)
        member.wait_up()
        return member

    def begin(
        self,
        *models: Path,
        options: Sequence[str] = (),
        nats: str = "",
        database: str = "",
        program: Sequence[str] = POTLUCK,
    ) -> Member:
        """A coordinator of these models, which may not answer yet. nats, database: other ways to these servers.

        program: what Python runs.
        """
        words = [*map(str, models), *options]
        name = f"coordinator-{secrets.token_hex(3)}"
        member = Member(self, name, words, nats or self.nats.url, database or self.database, program)
        self.members.append(member)
        member.start()
        self._ended.callback(lambda: member.process.stop())
        return member

    def add_all(self, model: Path, count: int, options: Sequence[str] = ()) -> list[Member]:
        """So many coordinators of this model."""
        with ThreadPoolExecutor(count) as threads:
            return list(threads.map(lambda _: self.add(model, options=options), range(count)))

    def add_node(self, member: Member, name: str, *options: str) -> Process:
        """A node that joins this coordinator. One of the same name that has ended is started again so."""
        words = ["join", member.invite, *options, "--name", name, "--on-battery", *ONE_THREAD]
        node = self._ended.enter_context(Process(words, POTLUCK_DATA=str(self.folder / name)))
        self.nodes.append(node)
        return node

    def wait_known(self, *members: Member) -> None:
        """Wait until these coordinators, or all, know each other, and what each of them covers now."""
        covers = {member.url: member.covers() for member in members or self.members}
        eventually(lambda: all(member.seen() == covers for member in members or self.members))

    def __exit__(self, *_: object) -> None:
        self._ended.close()
