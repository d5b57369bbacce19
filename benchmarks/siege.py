"""A swarm under attack: what other people notice of it.

    python benchmarks/siege.py [--seconds 8] [--swarms private,open,local] [--attacks tokens,heads,…,all]

Ten streams of one account run all the time on one node with one thread. Meanwhile another account asks for one token
every second, and a node joins and leaves. First nothing else happens for `--seconds`, and then an attack runs for as
long. Each attack of `attacker.py` has a swarm of its own, and at last all of them run together. Everything stays on
loopback, every attack is bounded in its number of connections and ends by itself.
"""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import psutil

from attacker import ATTACKS
from bench.prompts import Prompts
from bench.record import Figure, Measure, below
from bench.report import Report, options_parser
from bench.rounds import percentile
from bench.streams import ask, open_client
from bench.swarms import pin, temporary_cache
from potluck.client import split_invite
from potluck.errors import LinkClosed, PotluckError
from potluck.local import LocalSwarm, demo_model
from potluck.models.sources import open_model
from potluck.node.introduction import Introduction, expect
from potluck.node.pins import Pins
from potluck.types import Span
from potluck.wire.identity import Identity
from potluck.wire.link import WebSocketLink
from potluck.wire.messages import Hello, Welcome

STREAMS, PROMPT, TOKENS = 10, 16, 100
ATTACKER = Path(__file__).parent / "attacker.py"
SERVE = {"private": ["--host", "127.0.0.1"], "open": ["--open", "--host", "127.0.0.1"], "local": ["--local"]}
LOOK_S = 0.1
WARM_S = 2.0
"""Until all streams generate: beside prompts that begin at once, the first tokens come late."""

P95, PAUSE = Measure("p95 over quiet", "ratio"), Measure("longest pause", "ms")
MEMORY, JOINED, ADMITTED = Measure("memory", "MiB"), Measure("node joins", "s"), Measure("other token", "s")
BROKEN = Measure("broken", "count")
DIALS, SENT, CPU = Measure("connections", "count"), Measure("data", "MiB"), Measure("processor time", "s")
CHILDREN = Measure("memory of children", "MiB")


@dataclass
class Under:
    """A swarm that is going to be attacked. keys: of the streams, of the other account, and of the attacker."""

    swarm: LocalSwarm
    model: str
    invite: str
    keys: tuple[str, str, str]

    @property
    def address(self) -> tuple[str, str]:
        host, port = re.fullmatch(r"http://(.+):(\d+)", self.swarm.url).groups()  # type: ignore[union-attr]
        return host, port


@dataclass
class Noticed:
    """What others noticed in one part of the run."""

    pauses: list[tuple[float, float]] = field(default_factory=list)
    """The moment of each token but the first of its answer, and the seconds since the one before."""
    asked: list[float] = field(default_factory=list)
    joined: list[float] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)
    memory: int = 0
    children: int = 0
    cost: dict[str, float] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)


@asynccontextmanager
async def streaming(under: Under, prompts: Prompts, noticed: Noticed) -> AsyncIterator[None]:
    """While the block runs, ten streams do, each followed by the next one."""
    stopping = False

    async def again() -> None:
        async with open_client(under.swarm.url) as client:
            client.headers.update(bearer(under.keys[0]))
            while not stopping:
                [prompt] = prompts.take(1, PROMPT)
                answer = await ask(client, under.model, prompt, TOKENS)
                noticed.pauses += [(later, later - sooner) for sooner, later in pairwise(answer.moments)]

    tasks = [asyncio.create_task(again()) for _ in range(STREAMS)]
    try:
        yield
    finally:
        stopping = True
        await asyncio.gather(*tasks)


async def ask_once(under: Under, noticed: Noticed) -> None:
    """Ask for one token with the other account's key, over a new connection."""
    body = {"model": under.model, "prompt": "Good morning", "max_tokens": 1}
    began = time.perf_counter()
    try:
        async with open_client(under.swarm.url) as client:
            reply = await client.post("/v1/completions", json=body, headers=bearer(under.keys[1]))
            reply.raise_for_status()
    except httpx.HTTPError as error:
        noticed.broken.append(f"{type(error).__name__}: {error}")
    finally:  # what has not come by the end has taken at least this long
        noticed.asked.append(time.perf_counter() - began)


async def join_once(under: Under, noticed: Noticed) -> None:
    """Join as a node of one layer does, up to the welcome, and leave. A connection that is lost is tried again."""
    began, link = time.perf_counter(), None
    try:
        while link is None:
            try:
                link = await dial(under)
            except LinkClosed:
                await asyncio.sleep(LOOK_S)
    except PotluckError as error:
        noticed.broken.append(f"A node could not join: {error}")
    finally:
        noticed.joined.append(time.perf_counter() - began)
        if link is not None:
            await link.close()


async def dial(under: Under) -> WebSocketLink:
    """The link of a node that has been welcomed."""
    link = await WebSocketLink.dial(under.swarm.url.replace("http", "ws", 1) + "/node")
    pins = Pins(Path("/nonexistent"))  # coordinators on loopback are not pinned
    introduction = Introduction(Identity.fresh(), under.swarm.url, under.invite, pins, print)
    await introduction.make(link, Hello("siege", "benchmark", "", Span(0, 0), 1 << 40, 1))
    await expect(link, Welcome)
    return link


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"} if key else {}


async def repeat(once: Any, under: Under, noticed: Noticed, pause_s: float) -> None:
    while True:
        await once(under, noticed)
        await asyncio.sleep(pause_s)


async def watch_memory(process: psutil.Process, noticed: Noticed) -> None:
    while True:
        noticed.memory = max(noticed.memory, resident(process))
        noticed.children = max(noticed.children, sum(map(resident, process.children(recursive=True))))
        await asyncio.sleep(LOOK_S)


def resident(process: psutil.Process) -> int:
    """The bytes of memory of a process; 0 if it has just ended."""
    try:
        return int(process.memory_info().rss)
    except psutil.NoSuchProcess:
        return 0


async def besiege(under: Under, names: Sequence[str], seconds: float, prompts: Prompts) -> Noticed:
    """Let attackers loose (none: a quiet time), and note what others notice until the attackers have ended."""
    noticed, coordinator = Noticed(), psutil.Process(under.swarm.coordinator.popen.pid)
    async with streaming(under, prompts, noticed):
        await asyncio.sleep(WARM_S)
        begin = time.perf_counter()
        watching = [
            asyncio.create_task(work)
            for work in (
                watch_memory(coordinator, noticed),
                repeat(ask_once, under, noticed, 1.0),
                repeat(join_once, under, noticed, 2.0),
            )
        ]
        try:
            noticed.cost = await attack(under, names, seconds) if names else await asyncio.sleep(seconds, {})
        finally:
            for task in watching:
                task.cancel()
            await asyncio.gather(*watching, return_exceptions=True)
    noticed.gaps = [gap for moment, gap in noticed.pauses if moment - gap > begin]
    return noticed


async def attack(under: Under, names: Sequence[str], seconds: float) -> dict[str, float]:
    """Run the attacker until it ends. Returns its cost."""
    arguments = [",".join(names), *under.address, under.keys[2], under.model, str(seconds)]
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(ATTACKER), *arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    told, errors = await asyncio.wait_for(process.communicate(), seconds + 60)
    if process.returncode:
        sys.exit(f"The attacker failed: {errors.decode()[-500:]}")
    cost: dict[str, float] = json.loads(told)
    return cost


def figures(case: str, noticed: Noticed, quiet: Noticed) -> list[Figure]:
    """What others noticed. The memory is that by which the coordinator grew."""
    p95, quiet_p95 = (percentile(each.gaps, 95) for each in (noticed, quiet))
    return [
        P95.of(case, p95 / quiet_p95, below(2.0)),
        PAUSE.of(case, 1000 * max(noticed.gaps), below(500)),
        MEMORY.of(case, (noticed.memory - quiet.memory) / (1 << 20), below(64)),
        JOINED.of(case, max(noticed.joined), below(5.0)),
        ADMITTED.of(case, max(noticed.asked), below(1.0)),
        BROKEN.of(case, len(noticed.broken), below(1)),
    ]


def costs(case: str, noticed: Noticed, quiet: Noticed) -> list[Figure]:
    """What the attack cost: the attackers, and in memory of the coordinator's children."""
    return [
        DIALS.of(case, noticed.cost["dials"]),
        SENT.of(case, noticed.cost["nbytes"] / (1 << 20)),
        CPU.of(case, noticed.cost["cpu_s"]),
        CHILDREN.of(case, max(0, noticed.children - quiet.children) / (1 << 20)),
    ]


def start(kind: str, model: Path, stack: ExitStack) -> Under:
    """A swarm of this kind on a data folder of its own, with one node."""
    data = stack.enter_context(tempfile.TemporaryDirectory(prefix="potluck-siege-"))
    swarm = stack.enter_context(LocalSwarm(model, [], serve=SERVE[kind], POTLUCK_DATA=data))
    invite = ""
    if kind == "private":
        _, invite = split_invite(swarm.coordinator.wait_for("join").split('"')[1])
    manifest = open_model(model)
    url = f"{swarm.url}/#{invite}" if invite else None
    node = swarm.add_node(f"0-{manifest.layers - 1}", "--threads", "1", "--model", str(model), url=url)
    pin(node, 0)
    node.wait_for("Serving layers")
    if kind == "local":
        return Under(swarm, manifest.name, invite, ("", "", ""))
    told = swarm.coordinator.wait_for("Your own is in ")
    admin = Path(told.rpartition(" in ")[2].rstrip(".")).read_text().strip()
    streams, other, attacker = (make_key(swarm.url, admin, account) for account in ("anna", "bert", "mallory"))
    return Under(swarm, manifest.name, invite, (streams, other, "" if kind == "open" else attacker))


def besieged(kind: str, model: Path, names: Sequence[str], seconds: float, prompts: Prompts) -> tuple[Noticed, Noticed]:
    """What others notice of a fresh swarm, first in a quiet time and then under attack."""
    with temporary_cache(), ExitStack() as stack:
        under = start(kind, model, stack)
        asyncio.run(besiege(under, (), WARM_S, prompts))
        quiet = asyncio.run(besiege(under, (), seconds, prompts))
        return quiet, asyncio.run(besiege(under, names, seconds, prompts))


def make_key(url: str, admin: str, account: str) -> str:
    headers = {"Authorization": f"Bearer {admin}"}
    reply = httpx.post(f"{url}/v1/admin/keys", json={"account": account}, headers=headers, trust_env=False)
    reply.raise_for_status()
    return str(reply.json()["secret"])


def main() -> None:
    parser = options_parser(__doc__)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--swarms", default=",".join(SERVE))
    parser.add_argument("--attacks", default=",".join([*ATTACKS, "all"]))
    options = parser.parse_args()
    kinds, attacks = options.swarms.split(","), options.attacks.split(",")
    if unknown := {*kinds} - {*SERVE} | {*attacks} - {*ATTACKS, "all"}:
        parser.error(f"There is no {', '.join(sorted(unknown))}: swarms are {', '.join(SERVE)}.")
    model, report, broken = demo_model(), Report("siege", options), {}
    prompts = Prompts(open_model(model).vocabulary)
    for kind in kinds:
        table: list[Figure] = []
        cost: list[Figure] = []
        for name in attacks:
            quiet, noticed = besieged(kind, model, list(ATTACKS) if name == "all" else [name], options.seconds, prompts)
            table += (figures("quiet", quiet, quiet) if not table else []) + figures(name, noticed, quiet)
            cost += costs(name, noticed, quiet)
            broken[f"{kind} {name}"] = noticed.broken
        report.add({f"{kind} swarm": table, f"cost in the {kind} swarm": cost}, part=kind)
    report.finish(broken={case: errors for case, errors in broken.items() if errors})


if __name__ == "__main__":
    main()
