"""Which test files run in processes of their own."""

from __future__ import annotations

from kit.apart import Group
from kit.kernels import KERNEL_SETS, prebuilt_folder
from potluck.llama.files import CHOSEN

PYTORCH = (
    "tests/engine/test_splittable.py",
    "tests/engine/test_transformers.py",
    "tests/models/test_causal_classes.py",
    "tests/models/test_other_families.py",
    "tests/models/test_pickled.py",
)
"""These load PyTorch, and never a process that runs llama.cpp."""
EVERY_KERNEL_SET = ("tests/engine/test_exactness.py", "tests/engine/test_twins.py")
"""These run with the kernels of this CPU, and then with every other set that it can run."""
EVERY_LIBRARY = (
    *EVERY_KERNEL_SET,
    "tests/engine/test_llamacpp.py",
    "tests/engine/test_session_cache.py",
    "tests/engine/test_slots.py",
    "tests/engine/test_architectures.py",
    "tests/coordinator/text/test_partition.py",
)
"""These run with the library that is compiled here, and then with the prebuilt one."""


def groups() -> list[Group]:
    prebuilt = prebuilt_folder()
    missing = "" if prebuilt else "there is no prebuilt library for this system"
    return [
        Group("pytorch", PYTORCH),
        Group("prebuilt", EVERY_LIBRARY, {CHOSEN: str(prebuilt or "")}, shared=True, missing=missing),
        *(
            Group(
                kernels.name,
                EVERY_KERNEL_SET,
                {CHOSEN: str(kernels.folder)},
                shared=True,
                missing=kernels.missing,
            )
            for kernels in KERNEL_SETS
        ),
    ]
