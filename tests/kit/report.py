"""What a test run says of itself: first the CPU, the kernels and the libraries, last how many tests passed and why some
were skipped."""

from __future__ import annotations

import os
import platform
from collections import Counter
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest

from kit.apart import reason_of
from kit.kernels import cpu_flags
from potluck.engine.library_report import BrokenLibrary, read_library

_TELLING = ("avx2", "fma", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile", "amx_int8")
"""The flags of a CPU on which llama.cpp's choice of kernels depends most."""


def cpu_name() -> str:
    """As /proc/cpuinfo names it, or else the architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def pytest_report_header() -> list[str]:
    library = read_library()
    if isinstance(library, BrokenLibrary):
        pytest.exit(f"The llama.cpp library of this machine cannot be tested: {library.reason}.", 3)
    flags = " ".join(flag for flag in _TELLING if flag in cpu_flags())
    return [
        f"CPU: {cpu_name()}, {os.cpu_count()} cores; {flags or 'none of the flags that matter here'}",
        f"kernels: {' '.join(library.kernels)} ({library.digest})",
        f"libraries: {library.name}, ggml {library.ggml}, PyTorch {_version('torch')}",
    ]


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "is not installed"


def closing_line(stats: dict[str, list[pytest.TestReport]]) -> str:
    failed = len(stats.get("failed", [])) + len(stats.get("error", []))
    skipped = stats.get("skipped", [])
    line = f"{len(stats.get('passed', []))} passed, {failed} failed, {len(skipped)} skipped"
    if not skipped:
        return f"{line}."
    reasons = Counter(reason_of(report) for report in skipped).most_common()
    return f"{line} ({'; '.join(f'{count} x {reason}' for reason, count in reasons)})."


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config: pytest.Config) -> None:
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if reporter is not None and hasattr(reporter, "stats") and not config.option.collectonly:
        reporter.write_line(closing_line(reporter.stats))
