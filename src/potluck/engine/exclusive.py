"""Allows one native library in a process: llama.cpp and PyTorch must not compute in the same one.

llama.cpp configures the AMX tiles of a thread once and remembers that it did (`done` in `ggml-cpu/amx/mmq.cpp`).
PyTorch's kernels release the tiles of the thread in which they ran. After that, llama.cpp's next tile instruction in
this thread is undefined, and the process dies with "Illegal instruction".
"""

from __future__ import annotations

import sys
from typing import Literal

from potluck.errors import EngineError
from potluck.llama.library import is_loaded


def _is_pytorch_loaded() -> bool:
    return "torch" in sys.modules


_LOADED = {"llama.cpp": is_loaded, "PyTorch": _is_pytorch_loaded}


def claim_process(library: Literal["llama.cpp", "PyTorch"]) -> None:
    """Claim the process for this library, before an engine is made. Raises EngineError when the other one is loaded
    here.
    """
    [other] = _LOADED.keys() - {library}
    if _LOADED[other]():
        raise EngineError(
            f"An engine that uses {library} cannot be made in a process that has loaded {other}: on CPUs with AMX each "
            "breaks the other's tile configuration, and the process would die. Run the two engines in two processes."
        )
