"""The ids of an answer and of its parts, which all follow from one seed: the same answer made again has the same."""

from __future__ import annotations

import hashlib
import secrets
import time
from dataclasses import dataclass


@dataclass(frozen=True)
class Identities:
    """The ids of one answer. created: Unix time, which answers tell as well."""

    seed: bytes
    created: int

    @classmethod
    def fresh(cls) -> Identities:
        """The ids of a new answer."""
        return cls(secrets.token_bytes(16), int(time.time()))

    def of(self, *part: str | int) -> str:
        """The id of a part, in 32 hex digits. part: tells it apart from the answer's others."""
        return hashlib.sha256(self.seed + repr(part).encode()).hexdigest()[:32]
