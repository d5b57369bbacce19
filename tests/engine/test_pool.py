"""The threads of a library without OpenMP: the same bits on any of them, as many as cores, and none left over."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from gguf import GGMLQuantizationType

from kit.kernels import KERNEL_SETS
from kit.processes import python
from kit.tiny_gguf import write_tiny_gguf
from potluck.llama.files import CHOSEN

WITHOUT = next(kernels for kernels in KERNEL_SETS if not kernels.openmp)

TELL = """
import os, sys
from pathlib import Path
import numpy as np
from potluck.engine.base import Segment
from potluck.engine.llamacpp import LlamaCppEngine
from potluck.llama.library import load
from potluck.platform import thread_cpus
from potluck.types import Attention, Capacity, Span

def threads():
    return len(list(Path("/proc/self/task").iterdir()))

engine = LlamaCppEngine(
    Path(sys.argv[1]), span=Span(0, 1), layers=2, attention=Attention.EXACT, capacity=Capacity(4, 512, 64), threads=1
)
assert not load().has_openmp()
free, before = thread_cpus(), threads()
cores = sorted(free)[:2] if len(free) > 1 else [0, 1 << 16]
outputs = []
for turn, cpus in enumerate((cores, cores[:1], cores)):
    engine.use_cores(cpus)
    [output] = engine.forward([Segment(turn + 1, 0, np.arange(40, dtype=np.int32), 1)])
    outputs.append(output.tobytes())
    print(threads() - before, len(thread_cpus()))
    engine.rest()
    print(threads() - before, thread_cpus() == free)
[output] = engine.forward([Segment(9, 0, np.arange(40, dtype=np.int32), 1)])
assert {*outputs} == {output.tobytes()}
engine.unload()
print(threads() - before, thread_cpus() == free)
"""


@pytest.mark.skipif(bool(WITHOUT.missing), reason=WITHOUT.missing)
def test_a_library_without_openmp_computes_with_ggmls_threads(tmp_path: Path) -> None:
    model = write_tiny_gguf(tmp_path / "tiny.gguf", "llama", layers=2, dtype=GGMLQuantizationType.Q8_0)
    told = python("-c", TELL, model, env=os.environ | {CHOSEN: str(WITHOUT.folder)}).splitlines()
    assert told.pop() == "0 True"
    helpers = [line.split()[0] for line in told]
    assert [line.split()[1] for line in told[1::2]] == ["True"] * 3
    assert helpers == ["1", "1", "0", "0", "1", "1"]
