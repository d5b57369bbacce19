"""Moves large memory that is already in use, above all the weights, into huge pages."""

from __future__ import annotations

from collections.abc import Iterator

from potluck.platform import collapse, memory_maps

PAGE_BYTES = 2 << 20
LEAST_BYTES = 256 << 20
"""The smallest mapping that is moved. Below this size the processor's address cache copes with small pages."""


def collapse_large_mappings(least: int = LEAST_BYTES) -> int:
    """Ask Linux to move this process's large anonymous memory into pages of 2 MiB. Returns how many pages it moved.

    A token reads every weight once. With pages of 4 KiB, a processor, and even more a virtual one, spends much of that
    time on looking up addresses. On other systems than Linux this does nothing.
    """
    # Page by page: a request for a whole range ends at the first one that cannot be moved.
    return sum(
        collapse(page, PAGE_BYTES)
        for start, end in large_mappings(memory_maps(), least)
        for page in range(start, end, PAGE_BYTES)
    )


def large_mappings(maps: str, least: int) -> Iterator[tuple[int, int]]:
    """The writable private memory without a file in Linux's list of memory, as (start, end), in whole huge pages."""
    for line in maps.splitlines():
        addresses, mode, _, _, inode, *path = line.split(maxsplit=5)
        start, end = (int(address, 16) for address in addresses.split("-"))
        start, end = -(-start // PAGE_BYTES) * PAGE_BYTES, end // PAGE_BYTES * PAGE_BYTES
        if mode == "rw-p" and inode == "0" and not path and end - start >= least:
            yield start, end
