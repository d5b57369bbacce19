"""Draws the findings of `potluck doctor` from its readings, one on each subject, by pure functions."""

from __future__ import annotations

from msgspec import Struct

from potluck.commands.contact import Contact, Coordinator, NoUrl, Stranger, Unreachable
from potluck.commands.readings import Folder, Memory, Processor, Readings, Software
from potluck.engine.library_report import BrokenLibrary, Library

_GIB = 1 << 30
_SCARCE_DISK, _SPARSE_DISK = 1 * _GIB, 10 * _GIB
"""The bytes of free disk that are too few for a node's layers, and those that are few."""
_SCARCE_MEMORY, _SPARSE_MEMORY = _GIB // 2, 2 * _GIB
_BUSY = 0.5
"""The share of the processor from which on other programs slow down a node."""
_CLOCK_NOTE_S, _CLOCK_WRONG_S = 5.0, 60.0

_COMPILE = "pip install --force-reinstall --no-cache-dir --no-binary llama-cpp-python 'potluck[native]'"

_KERNELS = {
    "avx": "AVX",
    "avx2": "AVX2",
    "fma": "FMA",
    "f16c": "F16C",
    "avx512f": "AVX512",
    "avx512_vnni": "AVX512_VNNI",
    "asimddp": "DOTPROD",
    "i8mm": "MATMUL_INT8",
    "sve": "SVE",
}
"""Linux's names for the features of CPUs, and llama.cpp's names for its kernels that use them."""


class Ok(Struct, frozen=True, tag="ok", tag_field="level"):
    """Everything is in order. says: a sentence."""

    subject: str
    says: str


class Note(Struct, frozen=True, tag="note", tag_field="level"):
    """Something works, but not as well as it could. advice: a sentence that says what to do."""

    subject: str
    says: str
    advice: str


class Wrong(Struct, frozen=True, tag="wrong", tag_field="level"):
    """Something does not work until it is fixed. advice: a sentence that says what to do."""

    subject: str
    says: str
    advice: str


Finding = Ok | Note | Wrong


def findings(read: Readings) -> list[Finding]:
    """The findings, in the order in which they are shown."""
    return [
        software(read.software),
        *_llamacpp(read),
        processor(read.processor),
        memory(read.memory),
        folder("cache", read.cache),
        folder("data", read.data),
        *([] if read.contact is None else coordinator(read.contact, read.software.potluck)),
    ]


def software(read: Software) -> Finding:
    subject = "Potluck"
    says = f"Potluck {read.potluck} runs on {read.python}, {read.bits} bits, {read.system}."
    return Ok(subject, says) if read.bits >= 64 else Wrong(subject, says, "Install a Python with 64 bits.")


def _llamacpp(read: Readings) -> list[Finding]:
    """The findings about llama.cpp. If the library cannot be used, nothing is known of kernels and GPUs."""
    match read.library:
        case Library() as library:
            says = f"{library.name} is used, {library.told}, with llama.cpp {library.llama} and ggml {library.ggml}."
            says = f"{says} {read.comparison}".rstrip()
            return [Ok("llama.cpp", says), kernels(library, read.processor), gpu(library, read.nvidia)]
        case BrokenLibrary(reason):
            says = f"The library cannot be used: {reason}."
            return [Wrong("llama.cpp", says, f"Build it on this machine: {_COMPILE}")]


def kernels(read: Library, cpu: Processor) -> Finding:
    """Compare what the CPU can do with what the library was built for."""
    subject = "kernels"
    used = {feature for feature, kernel in _KERNELS.items() if kernel in read.kernels}
    if unused := [kernel for feature, kernel in _KERNELS.items() if feature in set(cpu.features.split()) - used]:
        says = f"llama.cpp was built without {', '.join(unused)}, which this CPU has."
        return Note(subject, says, f"Build it on this machine, to compute faster: {_COMPILE}")
    if not read.compiled_tap:
        says = "Potluck's own C code was not compiled, which slows each token a little."
        return Note(subject, says, "In a clone of Potluck, make native compiles it, for which it takes a C compiler.")
    return Ok(subject, f"{', '.join(read.kernels)}.")


def gpu(read: Library, nvidia: tuple[str, ...]) -> Finding:
    """The finding about GPUs. nvidia: the GPUs that NVIDIA's driver knows."""
    subject = "GPU"
    if read.gpus:
        gpus = ", ".join(f"{each.name} ({gib(each.free)} of {gib(each.total)} free)" for each in read.gpus)
        return Ok(subject, f"llama.cpp computes on {gpus}.")
    if nvidia:
        says = f"llama.cpp does not use {', '.join(nvidia)}."
        return Note(subject, says, f"Build it for the GPU: CMAKE_ARGS=-DGGML_CUDA=on {_COMPILE}")
    if read.for_gpus:
        says = "llama.cpp was built for GPUs and finds none, so that it computes on the CPU."
        return Note(subject, says, "Check that the GPU's driver is installed and works.")
    return Ok(subject, "llama.cpp computes on the CPU.")


def processor(read: Processor) -> Finding:
    subject = "processor"
    free = read.cores * (1 - read.busy)
    says = f"{read.model}: {free:.1f} of {read.cores} cores are free."
    if read.busy < _BUSY:
        return Ok(subject, says)
    return Note(subject, says, "A node gives way to other programs: close some of them, and it computes faster.")


def memory(read: Memory) -> Finding:
    subject = "memory"
    says = f"{gib(read.free)} of {gib(read.total)} are free."
    if read.free < _SCARCE_MEMORY:
        return Wrong(subject, says, "Close other programs: a node has no room for layers.")
    if read.free < _SPARSE_MEMORY:
        return Note(subject, says, "Close other programs, and a node can take more layers.")
    return Ok(subject, says)


def folder(subject: str, read: Folder) -> Finding:
    if not read.writable:
        says = f"The folder {read.path} cannot be written."
        return Wrong(
            subject, says, f"Give yourself the right to write there, or name another folder in {read.setting}."
        )
    says = f"{read.path} takes {gib(read.used)}, and {gib(read.free)} are free on its disk."
    if read.free < _SCARCE_DISK:
        return Wrong(subject, says, f"Make room on this disk, or name a folder on another one in {read.setting}.")
    if read.free < _SPARSE_DISK:
        return Note(subject, says, "Make room before a node fetches the layers of a large model.")
    return Ok(subject, says)


def coordinator(read: Contact, ours: str) -> list[Finding]:
    """The findings about the coordinator: whether it is reached, its version and its clock. ours: this Potluck's
    version.
    """
    match read:
        case Coordinator():
            says = f"{read.url} answers after {read.round_trip_s * 1e3:.1f} ms."
            return [Ok("coordinator", says), versions(ours, read.version), clock(read.ahead_s)]
        case Stranger():
            return [_stranger(read)]
        case Unreachable():
            says = f"No coordinator can be reached at {read.url}: {read.reason}."
            return [Wrong("coordinator", says, "Check the address, that `potluck serve` runs there, and the firewall.")]
        case NoUrl():
            says = "The text that was given is not a coordinator's URL."
            return [Wrong("coordinator", says, "Write it as http://192.168.1.5:8470.")]


def _stranger(read: Stranger) -> Finding:
    if read.message:
        return Wrong("coordinator", f"{read.url} refuses: {read.message}", "Ask it as its message says.")
    says = f"{read.url} answers with status {read.status}, but it is not a Potluck coordinator."
    return Wrong("coordinator", says, "Check the address and the port.")


def versions(ours: str, theirs: str | None) -> Finding:
    subject = "versions"
    if theirs is None:
        says = f"This is Potluck {ours}; the coordinator tells its version only to those who have a key."
        return Note(subject, says, "Give an API key with --key or in POTLUCK_KEY.")
    if ours != theirs:
        says = f"This is Potluck {ours}, and the coordinator runs {theirs}."
        return Note(subject, says, "Install the same version on both.")
    return Ok(subject, f"Both ends run Potluck {ours}.")


def clock(ahead_s: float | None) -> Finding:
    subject = "clock"
    if ahead_s is None:
        return Note(
            subject, "The coordinator does not send its time.", "Check whether a proxy removes the Date header."
        )
    if abs(ahead_s) < _CLOCK_NOTE_S:
        return Ok(subject, "This machine and the coordinator agree on the time.")
    says = f"This machine's clock is {abs(ahead_s):.0f} s {'ahead of' if ahead_s > 0 else 'behind'} the coordinator's."
    advice = "Let both machines take their time from the network."
    return Wrong(subject, says, advice) if abs(ahead_s) >= _CLOCK_WRONG_S else Note(subject, says, advice)


def gib(size: int) -> str:
    return f"{size / _GIB:.1f} GiB"
