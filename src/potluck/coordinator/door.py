"""Who may join: asked about every node that has proven its key."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Entry:
    """What the coordinator knows of an admitted node. account: its owner's, or empty. trusted: the owner is known."""

    account: str
    trusted: bool


STRANGER = Entry("", trusted=False)


class Door(Protocol):
    def admit(self, key: bytes, name: str, invite: str) -> Entry:
        """For a node that has proven this public key. At once: everything is in memory.

        Raises Refused, with a sentence for the node's owner.
        """


class OpenDoor:
    """Everybody may join, and nobody is known."""

    def admit(self, key: bytes, name: str, invite: str) -> Entry:
        return STRANGER
