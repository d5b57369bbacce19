"""The Dockerfile is linted, and built where there is a Docker engine."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess

import pytest

from kit.document_names import ROOT
from kit.processes import finish

KNOWN = {"FROM", "RUN", "COPY", "WORKDIR", "ENV", "USER", "VOLUME", "EXPOSE", "STOPSIGNAL", "ENTRYPOINT", "CMD"}
TEXT = (ROOT / "Dockerfile").read_text("utf-8")


def instructions(text: str) -> list[tuple[str, str]]:
    """Each with its arguments on one line."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in joined.splitlines() if line)]


def faults(text: str) -> list[str]:
    """What is wrong with a Dockerfile, by the rules that ours keeps."""
    found, stages, user, build = [], set[str](), "root", instructions(text)
    for word, rest in build:
        if word not in KNOWN:
            found.append(f"unknown: {word}")
        elif word == "FROM":
            image, *name = re.split(r" AS ", rest)
            if image not in stages and not re.fullmatch(r"[\w/.-]+:(?!latest$)[\w.-]+", image):
                found.append(f"not pinned: {image}")
            stages.update(name)
            user = "root"
        elif word == "USER":
            user = rest
        elif word == "RUN":
            found += _faults_of_run(rest)
        elif word == "COPY":
            found += _faults_of_copy(rest, stages)
        elif word in ("ENTRYPOINT", "CMD") and not rest.startswith("["):
            found.append(f"a shell runs {word}")
    return found + ["it runs as root"] * (user in ("root", "0")) + ["no command"] * (build[-1][0] != "CMD")


def _faults_of_run(command: str) -> list[str]:
    found = []
    if "apt-get install" in command and not all(part in command for part in ("--no-install-recommends", "rm -rf")):
        found.append("apt-get leaves more than it must")
    if "pip install" in command and "-c constraints.txt" not in command:
        found.append("pip installs what is not pinned")
    return found


def _faults_of_copy(arguments: str, stages: set[str]) -> list[str]:
    *sources, _ = shlex.split(arguments)
    if sources[0].startswith("--from="):
        stage = sources[0].removeprefix("--from=")
        return [] if stage in stages else [f"no stage: {stage}"]
    ignored = (ROOT / ".dockerignore").read_text("utf-8").splitlines()
    return [f"not there: {source}" for source in sources if not (ROOT / source).exists() or f"!{source}" not in ignored]


def test_the_dockerfile_keeps_the_rules() -> None:
    assert faults(TEXT) == []


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("FROM python:3.11-slim-bookworm\n", "FROM python:latest\n", "not pinned: python:latest"),
        ("FROM python:3.11-slim-bookworm\n", "FROM python\n", "not pinned: python"),
        ("USER potluck\n", "", "it runs as root"),
        ("USER potluck\n", "USER root\n", "it runs as root"),
        ("VOLUME /data", "VOLUMES /data", "unknown: VOLUMES"),
        ('ENTRYPOINT ["potluck"]', "ENTRYPOINT potluck", "a shell runs ENTRYPOINT"),
        ("RUN useradd", "RUN apt-get install gcc && useradd", "apt-get leaves more than it must"),
        ("-c constraints.txt '.[", "'.[", "pip installs what is not pinned"),
        ("COPY src src", "COPY sources src", "not there: sources"),
        ("--from=build", "--from=builder", "no stage: builder"),
        ('CMD ["--help"]\n', "", "no command"),
    ],
)
def test_the_rules_find_a_mistake(old: str, new: str, fault: str) -> None:
    assert old in TEXT
    assert faults(TEXT.replace(old, new)) == [fault]


def test_the_image_is_a_potluck_that_ends_politely() -> None:
    final = dict(instructions(TEXT)[-7:])
    assert json.loads(final["ENTRYPOINT"]) == ["potluck"]
    assert final["STOPSIGNAL"] == "SIGINT"
    assert final["EXPOSE"] == "8470"


def engine() -> bool:
    program = shutil.which("docker")
    return program is not None and finish(program, "info").returncode == 0


@pytest.mark.skipif(not engine(), reason="There is no Docker engine here.")
def test_the_image_builds_and_runs() -> None:
    subprocess.run(["docker", "build", "--tag", "potluck-test", "."], cwd=ROOT, check=True)
    told = subprocess.run(["docker", "run", "--rm", "potluck-test"], capture_output=True, text=True, check=True)
    assert told.stdout.startswith("Usage: potluck ")
