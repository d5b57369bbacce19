"""The base of all messages."""

from __future__ import annotations

from msgspec import Struct


class Message(Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", gc=False):
    """A message. gc=False: each frame makes some, and none can be part of a cycle."""
