"""Which test files run in processes of their own."""

from __future__ import annotations

from kit.apart import Group
from kit.kernels import KERNEL_SETS

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


def groups() -> list[Group]:
    return [
        Group("pytorch", PYTORCH),
        *(
            Group(
                kernels.name,
                EVERY_KERNEL_SET,
                {"LLAMA_CPP_LIB_PATH": str(kernels.folder)},
                shared=True,
                missing=kernels.missing,
            )
            for kernels in KERNEL_SETS
        ),
    ]
