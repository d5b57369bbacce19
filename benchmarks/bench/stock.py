"""Stock programs of llama.cpp: its server, alone or with the layers on RPC servers."""

from __future__ import annotations

import asyncio
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

import httpx
import psutil

from bench.prompts import Prompt
from bench.streams import Stream, events, open_client, request
from potluck.platform import usable_cores

SERVER = "llama-server"
RPC_SERVERS = ("ggml-rpc-server", "rpc-server")
"""The names that llama.cpp's RPC server has or had."""

START_S = 300.0
"""Ends a start that hangs."""


class Programs(NamedTuple):
    server: str
    rpc: str

    @property
    def version(self) -> str:
        """What the server says about itself."""
        told = subprocess.run([self.server, "--version"], capture_output=True, text=True, check=False)
        return (told.stderr + told.stdout).partition("\n")[0]


def find_programs(folder: Path) -> Programs:
    """Find the programs in a folder. Ends the program if one is missing."""
    server = shutil.which(SERVER, path=str(folder))
    rpc = next(filter(None, (shutil.which(name, path=str(folder)) for name in RPC_SERVERS)), None)
    if server is None or rpc is None:
        missing = RPC_SERVERS[0] if server else SERVER
        sys.exit(f"{folder} has no {missing}: build llama.cpp with GGML_RPC=ON and give the folder of its programs.")
    return Programs(server, rpc)


@contextmanager
def llama_server(programs: Programs, model: Path, slots: int, context: int, rpc: Sequence[str] = ()) -> Iterator[str]:
    """The URL of a server with so many slots of so many positions each, and a thread for each core that it may use.

    rpc: the addresses of the RPC servers that shall have all layers.
    """
    port = _free_port()
    room = ["-np", str(slots), "-c", str(slots * context), "--cache-ram", "0", "-t", str(len(usable_cores()))]
    where = ["--rpc", ",".join(rpc), "-ngl", "99"] if rpc else []
    command = [programs.server, "-m", str(model), "--host", "127.0.0.1", "--port", str(port), *room, *where]
    url = f"http://127.0.0.1:{port}"
    with _running(command, partial(_healthy, url)):
        yield url


@contextmanager
def rpc_servers(programs: Programs) -> Iterator[list[str]]:
    """The addresses of RPC servers with one thread each, one bound to each core that this process may use."""
    with ExitStack() as stack:
        addresses = []
        for core in usable_cores():
            port = _free_port()
            command = [programs.rpc, "-H", "127.0.0.1", "-p", str(port), "-t", "1"]
            stack.enter_context(_running(command, partial(_accepts, port), core))
            addresses.append(f"127.0.0.1:{port}")
        yield addresses


@contextmanager
def _running(command: list[str], ready: Callable[[], bool], core: int | None = None) -> Iterator[None]:
    """Run a command, on this core if it is given. Ends the program if the command ends or hangs before it is ready."""
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT)
        try:
            if core is not None and hasattr(psutil.Process, "cpu_affinity"):
                psutil.Process(process.pid).cpu_affinity([core])
            deadline = time.monotonic() + START_S
            while not ready():
                if process.poll() is not None or time.monotonic() > deadline:
                    output.seek(0)
                    sys.exit(f"{Path(command[0]).name} did not start. It said: {output.read()[-2000:]}")
                time.sleep(0.05)
            yield
        finally:
            process.kill()  # it holds nothing that would have to be saved
            process.wait()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def _accepts(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def _healthy(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", trust_env=False).status_code == 200
    except httpx.TransportError:  # it does not listen yet
        return False


def ask_stock(url: str, prompts: Sequence[Prompt], tokens: int) -> list[Stream]:
    """Ask llama.cpp's server for an answer to each prompt, all at once. Ends the program if one has another length."""

    async def run() -> list[Stream]:
        async with open_client(url) as client:
            return await asyncio.gather(*(_ask(client, prompt, tokens) for prompt in prompts))

    return asyncio.run(run())


async def _ask(client: httpx.AsyncClient, prompt: Prompt, tokens: int) -> Stream:
    began = time.perf_counter()
    *pieces, (end, last) = await events(client, request("any", prompt, tokens))
    if last["usage"]["completion_tokens"] != tokens:
        sys.exit(f"{last['usage']['completion_tokens']} tokens came where {tokens} were asked for.")
    # A token that ends within a character comes with the next one, and the last ones with the end.
    moments = [moment for moment, _ in pieces]
    return Stream(
        began, "".join(body["choices"][0]["text"] for _, body in pieces), moments + [end] * (tokens - len(moments))
    )
