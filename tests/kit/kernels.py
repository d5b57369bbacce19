"""llama.cpp's CPU kernels for smaller instruction sets than this CPU's own, so that one machine tests for many.

As a program it compiles them, from the source package of the llama-cpp-python that is installed: a minute for each set,
once only. A set is a folder with links to the installed libraries and with `libggml-cpu` of its own, which
POTLUCK_LLAMA names in place of the installed ones.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from potluck.llama.files import all_libraries

ROOT = Path(__file__).parent.parent.parent
FOLDER = ROOT / "build" / "kernels" / version("llama_cpp_python")

_VECTORS = ("SSE42", "AVX", "AVX2", "FMA", "F16C", "BMI2")
_FEATURES = (*_VECTORS, "AVX512", "AVX512_VBMI", "AVX512_VNNI", "AVX512_BF16", "AMX_TILE", "AMX_INT8")


@dataclass(frozen=True)
class KernelSet:
    """features: of ggml's build, GGML_… each. flags: what /proc/cpuinfo must list for it to run. openmp: whether it
    computes with OpenMP's threads, as usual on Linux.
    """

    name: str
    features: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    openmp: bool = True

    @property
    def folder(self) -> Path:
        return FOLDER / self.name

    @property
    def missing(self) -> str:
        """Why it cannot be tested here; empty where it can."""
        if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
            return f"the {self.name} kernels are for x86-64 Linux"
        if lacking := [flag for flag in self.flags if flag not in cpu_flags()]:
            return f"this CPU has no {' '.join(lacking)}"
        return "" if (self.folder / "libggml-cpu.so").exists() else f"the {self.name} kernels are not compiled"


_AVX2 = KernelSet("avx2", _VECTORS, ("avx2", "fma", "f16c", "bmi2"))
_AVX512 = KernelSet(
    "avx512", _FEATURES[:7], (*_AVX2.flags, *(f"avx512{part}" for part in ("f", "cd", "vl", "dq", "bw")))
)
_VNNI = KernelSet("avx512-vnni", _FEATURES[:10], (*_AVX512.flags, "avx512vbmi", "avx512_vnni", "avx512_bf16"))
_AMX = KernelSet("amx", _FEATURES, (*_VNNI.flags, "amx_tile", "amx_int8"))

KERNEL_SETS = (KernelSet("plain", openmp=False), _AVX2, _AVX512, _VNNI, _AMX)


def _compiled() -> Path:
    """llama.cpp as it was compiled here."""
    return next(library.llama for library in all_libraries() if library.told != "prebuilt")


def prebuilt_folder() -> Path | None:
    """The folder of the prebuilt library; None where it is not installed."""
    prebuilt = [library for library in all_libraries() if library.told == "prebuilt"]
    return prebuilt[0].llama.parent.parent if prebuilt else None


def cpu_flags() -> frozenset[str]:
    """What /proc/cpuinfo lists of the first core; nothing on other systems."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return frozenset()
    return frozenset(next((line.split(":")[1] for line in lines if line.startswith("flags")), "").split())


def _compile(kernels: KernelSet, source: Path, build: Path) -> None:
    chosen = [f"-DGGML_{feature}={'ON' if feature in kernels.features else 'OFF'}" for feature in _FEATURES]
    without = [f"-DLLAMA_BUILD_{part}=OFF" for part in ("COMMON", "EXAMPLES", "SERVER", "TESTS", "TOOLS")]
    options = [
        "-DCMAKE_BUILD_TYPE=Release",
        "-DCMAKE_C_FLAGS=-w",
        "-DGGML_NATIVE=OFF",
        f"-DGGML_OPENMP={'ON' if kernels.openmp else 'OFF'}",
        "-DBUILD_SHARED_LIBS=ON",
        "-DLLAMA_CURL=OFF",
    ]
    options += [f"-DCMAKE_CXX_FLAGS=-w -include {ROOT / 'native' / 'amx.h'}", *chosen, *without]
    subprocess.run(["cmake", "-S", source, "-B", build, *options], check=True, stdout=subprocess.DEVNULL)
    command = ["cmake", "--build", str(build), "--target", "ggml-cpu", "--parallel", str(os.cpu_count())]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    kernels.folder.mkdir(parents=True, exist_ok=True)
    for file in _compiled().parent.iterdir():
        _link(kernels.folder / file.name, file)
    for file in sorted((build / "bin").glob("libggml-cpu.so*"), reverse=True):  # the bare name last: it says "done"
        target = kernels.folder / file.name
        target.unlink(missing_ok=True)
        target.write_bytes(file.read_bytes())


def _link(path: Path, target: Path) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to(target)


def _source(folder: Path) -> Path:
    """llama.cpp's source, as the package of the installed version carries it."""
    package = f"llama-cpp-python=={version('llama_cpp_python')}"
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "-q",
        "--no-deps",
        "--no-binary",
        "llama-cpp-python",
        "-d",
        str(folder),
        package,
    ]
    subprocess.run(command, check=True)
    [archive] = folder.glob("*.tar.gz")
    with tarfile.open(archive) as members:
        members.extractall(folder, filter="data")
    [source] = folder.glob("*/vendor/llama.cpp")
    return source


def main() -> None:
    wanted = [kernels for kernels in KERNEL_SETS if kernels.missing.endswith("not compiled")]
    if not wanted:
        return
    with tempfile.TemporaryDirectory() as folder:
        source = _source(Path(folder))
        for kernels in wanted:
            sys.stdout.write(f"Compiling the {kernels.name} kernels of llama.cpp.\n")
            sys.stdout.flush()
            _compile(kernels, source, Path(folder) / kernels.name)


if __name__ == "__main__":
    main()
