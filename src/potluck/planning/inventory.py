"""Parses machines as the command line writes them: `8G`, `8G+32G`, `16G@40x3`. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from math import inf

from potluck.errors import PotluckError
from potluck.planning.machine import Machine

DEFAULT_GB_PER_S = 10.0
"""The GB of weights that two cores of an older computer read in a second."""


def parse_memory(text: str) -> int:
    """Parse `"6G"` or `"800M"` into bytes. Raises PotluckError for anything else."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?", text.strip(), re.IGNORECASE)
    if match is None:
        raise PotluckError(f"{text!r} is not an amount of memory: write it as 6G or 800M.")
    return int(float(match[1]) * 1024 ** " KMGT".index(match[2].upper() or " "))


def parse_machines(texts: Sequence[str], round_trip_s: float = 0.0, link_bytes_per_s: float = inf) -> list[Machine]:
    """Parse texts of the form [CARD+]MEMORY[@SPEED][xCOUNT], with SPEED in GB/s of weights. CARD is the memory of its
    graphics cards. All machines have equal links.

    A machine's name is its number and its text. Raises PotluckError for any other text.
    """
    machines: list[Machine] = []
    for text in texts:
        match = re.fullmatch(r"([^@x]+)(?:@(\d{1,6}(?:\.\d+)?))?(?:x(\d{1,4}))?", text.strip())
        if match is None or (match[2] and not float(match[2])) or (match[3] and not int(match[3])):
            raise PotluckError(
                f"{text!r} is not a machine: write it as 8G, 8G+32G (a card's memory and the rest), 16G@40 (GB/s) or "
                "16G@40x3 (three of them)."
            )
        card, _, memory = match[1].rpartition("+")
        sizes, speed = (
            (parse_memory(memory), parse_memory(card) if card else 0),
            1e9 * float(match[2] or DEFAULT_GB_PER_S),
        )
        kind = text.strip().partition("x")[0]
        for _ in range(int(match[3] or 1)):
            name = f"{len(machines) + 1}: {kind}"
            machines.append(Machine(name, sizes[0], speed, round_trip_s, link_bytes_per_s, sizes[1]))
    return machines
