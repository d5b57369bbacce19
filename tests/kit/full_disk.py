"""A disk on which nothing has room, as this process and those that it starts meanwhile see it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

try:
    import resource
except ImportError:  # Windows has no such limits
    resource = None  # type: ignore[assignment]

POSSIBLE = resource is not None


@contextmanager
def full_disk() -> Iterator[None]:
    """Python ignores the signal that comes with it, so that writers learn of it as of a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
