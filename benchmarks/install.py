"""The time from a clone to the demo's answer where there is no compiler.

    python benchmarks/install.py [--rounds 3]

Each round runs `make demo` in a fresh clone, with a PATH that has only Python, make and a shell, and with a pip that
takes wheels only. The wheels are in pip's cache: a first round, which is not counted, sees to that.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.record import Measure, below
from bench.report import ROOT, Report, options_parser

sys.path.append(str(ROOT / "tests"))

from kit import bare

INSTALLED = Measure("installed", "s")
ANSWERED = Measure("answered", "s")


def measure() -> tuple[float, float]:
    """The seconds until Potluck was installed, and until the demo had ended."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        environment = bare.bare_environment(folder)
        began = time.monotonic()
        clone = bare.clone(folder / "potluck")
        _make("install", clone, environment)
        installed = time.monotonic()
        _make("demo", clone, environment)
        return installed - began, time.monotonic() - began


def _make(target: str, clone: Path, environment: dict[str, str]) -> None:
    done = subprocess.run(
        ["make", target], cwd=clone, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    if done.returncode:
        sys.exit(f"make {target} failed:\n{done.stdout}{done.stderr}")


def main() -> None:
    parser = options_parser(__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    report = Report("install", options)
    measure()
    installed, answered = zip(*(measure() for _ in range(options.rounds)), strict=True)
    case = "from a clone, without a compiler"
    report.add({"seconds": [INSTALLED.of(case, installed), ANSWERED.of(case, answered, below(60))]})
    report.finish(installed=installed, answered=answered)


if __name__ == "__main__":
    main()
