"""A graphics card in software: Mesa's Vulkan driver for CPUs, which ggml uses only when it is named.

It is slow, and its speed says nothing about cards. On Debian, `apt-get install libvulkan1 mesa-vulkan-drivers`.
"""

from __future__ import annotations

import os
from functools import cache
from typing import Any

import msgspec

from kit.processes import PYTHON, finish
from potluck.engine.library_report import Gpu, Library
from potluck.llama.files import CHOSEN, all_libraries

_DRIVER = "llvmpipe"


def environment() -> dict[str, Any]:
    """The variables with which a process uses a library with plug-ins, and takes the first Vulkan device as a card."""
    folders = [files.llama.parent.parent for files in all_libraries() if files.cards]
    return {CHOSEN: str(folders[0]), "GGML_VK_VISIBLE_DEVICES": "0"} if folders else {}


@cache
def software_card() -> Gpu | None:
    """The card, or None where there is no such library or driver, or where the first device is a real card."""
    if not (given := environment()):
        return None
    done = finish(*PYTHON, "-m", "potluck.engine.library_child", env=os.environ | given)
    if done.returncode:
        return None
    library = msgspec.json.decode(done.stdout.strip().splitlines()[-1], type=Library)
    return next((gpu for gpu in library.gpus if _DRIVER in gpu.name), None)
