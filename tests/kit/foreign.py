"""Other people's programs that talk to Potluck: each has an environment of its own, apart from our packages."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest

from kit.processes import PYTHON, finish

ROOT = Path(__file__).parents[2]
SCRIPTS = ROOT / "tests" / "clients"
_ENVIRONMENTS = ROOT / ".venv" / "clients"
_UV = [*PYTHON, "-m", "uv"]
_NOWHERE = "http://127.0.0.1:9"
"""A proxy that is none: whatever these programs would ask or tell others, they reach only this machine."""


def index_is_reached(folder: Path) -> bool:
    """Whether packages can be installed here at all. folder: an empty one."""
    options = ["-q", "--no-deps", "--no-cache-dir", "--retries", "1", "--dest", folder, "-c", ROOT / "constraints.txt"]
    return finish(*PYTHON, "-m", "pip", "download", *options, "h11").returncode == 0


def python_with(name: str, folder: Path) -> Path:
    """A Python that has the packages of `requirements-NAME.txt`. They are installed once, and then kept.

    folder: an empty one. The test is skipped where nothing can be installed.
    """
    wanted = (SCRIPTS / f"requirements-{name}.txt").read_text("utf-8")
    environment = _ENVIRONMENTS / name
    python, made_of = environment / "bin" / "python", environment / "made-of.txt"
    if made_of.exists() and made_of.read_text("utf-8") == wanted:
        return python
    shutil.rmtree(environment, ignore_errors=True)
    finish(*_UV, "venv", "-q", "--python", sys.executable, environment)
    done = finish(*_UV, "pip", "install", "-q", "--python", python, "-r", SCRIPTS / f"requirements-{name}.txt")
    if done.returncode and not index_is_reached(folder):
        pytest.skip(f"No index of packages can be reached, so {name} cannot be installed.")
    assert done.returncode == 0, done.stderr
    made_of.write_text(wanted, "utf-8")
    return python


def surroundings(home: Path) -> dict[str, str]:
    """The environment variables of such a program. home: an empty folder for what it leaves behind."""
    ours = ("PYTHON", "OPENAI_", "ANTHROPIC_", "POTLUCK_", "LITELLM_", "LANGCHAIN_", "LANGSMITH_", "LLM_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    proxies = {"HTTPS_PROXY": _NOWHERE, "https_proxy": _NOWHERE, "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
    return {**kept, **proxies, "HOME": str(home), "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
