"""The machine that a benchmark runs on, as its system and llama.cpp describe it."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Annotated

import psutil
from msgspec import Meta, Struct

from potluck.llama.files import find_library
from potluck.platform import usable_cores

CPUINFO = Path("/proc/cpuinfo")
INSTRUCTIONS = {
    "avx2": "AVX2",
    "avx512f": "AVX-512",
    "avx512_vnni": "AVX-512 VNNI",
    "amx_tile": "AMX",
    "asimd": "NEON",
    "asimddp": "NEON dot product",
    "i8mm": "NEON I8MM",
    "sve": "SVE",
}
"""The names of the instruction sets for which llama.cpp has kernels of its own, by Linux's flags."""


class Hardware(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """The parts of a machine that figures depend on.

    cpu: the name of the model. cores: the number of cores that the process may use, without hyper-threads.
    memory_gib: the memory of the whole machine. instructions: the CPU's instruction sets, as `INSTRUCTIONS` names them.
    library: the package that holds llama.cpp. kernels: the features that llama.cpp says it was compiled with.
    load: the load average of the minute before the benchmark began; None if the system does not provide it.
    """

    cpu: Annotated[str, Meta(min_length=1)]
    cores: Annotated[int, Meta(ge=1)]
    memory_gib: Annotated[float, Meta(gt=0)]
    instructions: tuple[str, ...]
    system: Annotated[str, Meta(min_length=1)]
    library: str = ""
    kernels: tuple[str, ...] = ()
    load: float | None = None

    def __str__(self) -> str:
        """The parts that matter most, for readers."""
        instructions = f" with {', '.join(self.instructions)}" if self.instructions else ""
        cores = f"{self.cores} core{'s' if self.cores > 1 else ''}"
        return f"{self.cpu}{instructions}, {cores}, {self.memory_gib:g} GiB of memory, {self.system}"


def read_hardware() -> Hardware:
    """Describe this machine as it is now."""
    return Hardware(
        cpu=_cpuinfo("model name") or platform.processor() or platform.machine(),
        cores=len(usable_cores()),
        memory_gib=round(psutil.virtual_memory().total / (1 << 30), 1),
        instructions=_instructions(),
        system=_system(),
        library=find_library().name,
        kernels=_kernels(),
        load=round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
    )


def _system() -> str:
    """The name of the distribution, or where there is none, of the system."""
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except OSError:  # not Linux, or one that does not say
        return platform.platform()


def _instructions() -> tuple[str, ...]:
    flags = {*_cpuinfo("flags").split(), *_cpuinfo("Features").split()}  # x86 and ARM
    return tuple(name for flag, name in INSTRUCTIONS.items() if flag in flags)


def _cpuinfo(key: str) -> str:
    """The value that Linux gives for the first core; empty on other systems."""
    for line in CPUINFO.read_text().splitlines() if CPUINFO.exists() else []:
        name, _, value = line.partition(":")
        if name.strip() == key:
            return value.strip()
    return ""


def _kernels() -> tuple[str, ...]:
    from potluck.llama.library import load  # late, so that reading a record does not load the library

    features = load().llama_print_system_info().decode().rpartition(":")[2]
    named = (feature.partition("=") for feature in features.split("|"))
    return tuple(name.strip() for name, _, value in named if value.strip() not in ("", "0"))
