import mmap
import re
import sys
from pathlib import Path

import pytest

from potluck.node.pages import PAGE_BYTES, collapse_large_mappings, large_mappings

MAPS = """\
55a0c0a00000-55a0c0c01000 r--p 00000000 fe:00 132 /usr/bin/python3
7f0000001000-7f0001001000 rw-p 00000000 00:00 0
7f1000000000-7f1000200000 rw-p 00000000 00:00 0
7f2000000000-7f2001000000 rw-p 00000000 fe:00 99 /tmp/span.gguf
7f3000000000-7f3001000000 rw-p 00000000 00:00 0 [heap]
7f4000000000-7f4001000000 r-xp 00000000 00:00 0
"""


def test_only_large_memory_of_the_process_itself_is_moved() -> None:
    assert list(large_mappings(MAPS, 4 * PAGE_BYTES)) == [(0x7F0000200000, 0x7F0001000000)]


def huge_bytes() -> int:
    [kib] = re.findall(r"AnonHugePages:\s*(\d+) kB", Path("/proc/self/smaps_rollup").read_text())
    return int(kib) << 10


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Only Linux has such pages.")
def test_memory_is_moved_and_keeps_its_values() -> None:
    size = 32 * PAGE_BYTES
    with mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        memory.write(b"potluck!" * (size // 8))
        before = huge_bytes()
        moved = collapse_large_mappings(size // 2)
        assert memory[:] == b"potluck!" * (size // 8)
        if moved:  # older kernels move nothing
            assert huge_bytes() > before
