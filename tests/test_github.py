"""The files for GitHub and for pre-commit: they have their form, and what they call exists."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml

from potluck.cli import app

ROOT = Path(__file__).parent.parent
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
FORMS = sorted(path for path in (ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml") if path.name != "config.yml")
MAKEFILE = (ROOT / "Makefile").read_text("utf-8")
TARGETS = set(re.findall(r"^([a-z]+):", MAKEFILE, re.MULTILINE))
COMMANDS: dict[str, Any] = getattr(typer.main.get_command(app), "commands")  # noqa: B009

SYSTEMS = {"ubuntu-latest", "macos-latest", "windows-latest"}


def read(path: Path) -> dict[Any, Any]:
    told = yaml.safe_load(path.read_text("utf-8"))
    assert isinstance(told, dict)
    return told


def jobs(workflow: Path) -> list[dict[str, Any]]:
    return list(read(workflow)["jobs"].values())


def runs(workflow: Path) -> Iterator[str]:
    """What the steps run."""
    return (step["run"] for job in jobs(workflow) for step in job["steps"] if "run" in step)


def missing(script: str) -> list[str]:
    """The targets of make and the commands of Potluck that a script calls and that do not exist."""
    targets = [f"make {target}" for target in re.findall(r"\bmake ([a-z]+)", script) if target not in TARGETS]
    called = re.findall(r"(?:\bpotluck|\$program\") ([a-z]+)", script)
    return targets + [f"potluck {command}" for command in called if command not in COMMANDS]


@pytest.mark.parametrize("path", sorted(ROOT.glob(".github/**/*.yml")), ids=lambda path: path.name)
def test_every_file_is_yaml(path: Path) -> None:
    assert read(path)


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_workflows_call_what_exists(path: Path) -> None:
    assert [gone for script in runs(path) for gone in missing(script)] == []


def test_what_does_not_exist_is_found() -> None:
    assert missing("make dance\nmake demo </dev/null\n") == ["make dance"]
    assert missing('.venv/bin/potluck sing && "$program" doctor') == ["potluck sing"]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_workflows_have_steps_limits_and_no_rights(path: Path) -> None:
    workflow = read(path)
    assert workflow[True].keys() >= {"push", "pull_request"}  # YAML reads the key `on` as a truth value
    assert workflow["permissions"] == {"contents": "read"}
    for job in jobs(path):
        assert job["timeout-minutes"] <= 60
        assert all(("run" in step) != ("uses" in step) for step in job["steps"])
        assert all(re.fullmatch(r"[\w/-]+@v\d+", step["uses"]) for step in job["steps"] if "uses" in step)


def test_each_system_and_each_python_is_checked_and_runs_the_demo() -> None:
    [job] = jobs(ROOT / ".github" / "workflows" / "check.yml")
    assert set(job["strategy"]["matrix"]["os"]) == SYSTEMS
    assert job["strategy"]["matrix"]["python"] == ["3.11", "3.12", "3.13", "3.14"]
    for system in ("Linux", "Windows"):
        scripts = "\n".join(step["run"] for step in job["steps"] if "run" in step and applies(step, system))
        assert ("make check" in scripts) == (system != "Windows")
        assert re.search(r"(make|potluck) demo", scripts)
        assert ("pytest" in scripts) == (system == "Windows")


def applies(step: dict[str, Any], system: str) -> bool:
    """Whether a step runs on this system, by the conditions that our workflows use."""
    condition = step.get("if", "always()")
    return bool(
        {"always()": True, f"runner.os == '{system}'": True, "runner.os != 'Windows'": system != "Windows"}.get(
            condition, False
        )
    )


def test_windows_runs_the_commands_of_the_makefile() -> None:
    [job] = jobs(ROOT / ".github" / "workflows" / "check.yml")
    scripts = "\n".join(step["run"] for step in job["steps"] if step.get("if") == "runner.os == 'Windows'")
    for command in re.findall(r"^\t\.venv/bin/((?:ruff|mypy).*)$", _recipe("lint"), re.MULTILINE):
        assert f".venv/Scripts/{command}\n" in scripts


def _recipe(target: str) -> str:
    found = re.search(rf"^{target}:.*\n((?:\t.*\n)+)", MAKEFILE, re.MULTILINE)
    assert found is not None, target
    return found[1]


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.name)
def test_issue_forms_have_their_form(path: Path) -> None:
    form = read(path)
    assert form.keys() >= {"name", "description", "body"}
    fields = [part for part in form["body"] if part["type"] != "markdown"]
    assert all(part["type"] in ("textarea", "input", "dropdown", "checkboxes") for part in fields)
    assert all(part["attributes"]["label"] for part in fields)
    ids = [part["id"] for part in fields]
    assert len(ids) == len(set(ids))
    assert missing(path.read_text("utf-8")) == []


def test_a_bug_report_takes_what_the_doctor_says() -> None:
    parts = {part.get("id"): part for part in read(ROOT / ".github" / "ISSUE_TEMPLATE" / "bug.yml")["body"]}
    assert "`potluck doctor --json" in parts["doctor"]["attributes"]["label"]
    assert parts["doctor"]["validations"]["required"] is True


def test_the_pull_request_template_names_what_exists() -> None:
    assert missing((ROOT / ".github" / "pull_request_template.md").read_text("utf-8")) == []


def test_pre_commit_runs_the_tools_of_the_environment() -> None:
    [repository] = read(ROOT / ".pre-commit-config.yaml")["repos"]
    assert repository["repo"] == "local"
    hooks = {hook["id"]: hook for hook in repository["hooks"]}
    assert hooks.keys() == {"ruff", "ruff-format", "mypy", "mypy-tests"}
    assert all(hook["language"] == "system" for hook in hooks.values())
    assert all(re.match(r"\.venv/bin/(ruff|mypy)\b", hook["entry"]) for hook in hooks.values())
    assert all(hooks[name]["pass_filenames"] is False for name in ("mypy", "mypy-tests"))
