"""Chooses how much of this machine's graphics cards a node offers. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from potluck.engine.library_report import Gpu
from potluck.errors import PotluckError
from potluck.node.room import Room
from potluck.planning.offload import CARD_RESERVE_BYTES

LEFT_BYTES = 512 << 20
"""The bytes of each card that stay free for the desktop and other programs, unless the owner says how many to use."""


def room(memory: int, gpus: Sequence[Gpu], asked: int | None) -> Room:
    """The room that a node offers. memory: bytes of the machine's own memory. asked: those of cards that the owner
    wants it to use; None leaves the choice to Potluck.

    Cards with memory of their own come first. Of those that share the machine's, Apple's are used, and others only if
    the owner asks for them, because nobody has measured that they help. Raises PotluckError when there is no card to
    use as asked, or when it has less.
    """
    own = [gpu for gpu in gpus if gpu.kind == "card"]
    unified = [gpu for gpu in gpus if gpu.kind == "unified card"]
    used = own or unified or (list(gpus) if asked else [])
    if asked is None:
        card = sum(max(0, gpu.free - LEFT_BYTES) for gpu in used)
    else:
        card, most = asked, sum(gpu.total for gpu in used)
        if asked and not used:
            raise PotluckError("This machine has no graphics card that llama.cpp can use: leave --gpu-memory out.")
        if asked > most:
            raise PotluckError(f"The graphics cards of this machine have {most >> 20} MiB together, not {asked >> 20}.")
    # The engine has work buffers on each card, and planning counts one.
    card -= max(0, len(used) - 1) * CARD_RESERVE_BYTES
    return Room(memory, card if card > CARD_RESERVE_BYTES else 0, shares=not own)
