"""What an owner orders a running node from another process: to pause, to continue, to leave.

Orders are lines of a file beside the node's mark, and not signals, which Windows does not have, and which could reach
another program that has the node's number now.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping
from enum import StrEnum
from pathlib import Path

from potluck.node.neighbours import orders_path


class Order(StrEnum):
    """One order, as it is written in the file."""

    PAUSE = "pause"
    RESUME = "resume"
    LEAVE = "leave"


_WORDS = frozenset(Order)


def give(order: Order, pid: int, folder: Path | None = None) -> None:
    """Order this of the node of this process."""
    with orders_path(pid, folder).open("ab", buffering=0) as file:  # a line in one piece: several may give orders
        file.write(f"{order}\n".encode())


class Orders:
    """The orders to this process, which are read one after another."""

    def __init__(self, folder: Path | None = None) -> None:
        self._path = orders_path(os.getpid(), folder)
        self._read = 0

    def fresh(self) -> list[Order]:
        """The orders that came since the last call. What is no order is passed over."""
        try:
            written = self._path.read_bytes()
        except (FileNotFoundError, PermissionError):  # nobody has given any, or a virus scanner looks at them now
            return []
        if len(written) < self._read:  # the system cleaned its folder up, and somebody has begun anew
            self._read = 0
        end = written.rfind(b"\n") + 1
        lines = written[self._read : end].decode("utf-8", "replace").split()
        self._read = max(self._read, end)
        return [Order(line) for line in lines if line in _WORDS]


HEED_S = 0.25
"""Seconds between two looks at the orders."""


async def heed(acts: Mapping[Order, Callable[[], None]]) -> None:
    """Act on the orders that come from other processes, for ever."""
    orders = Orders()
    while True:
        await asyncio.sleep(HEED_S)
        for order in orders.fresh():
            acts[order]()
