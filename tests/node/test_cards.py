"""How much of a machine's graphics cards a node offers."""

from __future__ import annotations

import pytest

from potluck.engine.library_report import Gpu
from potluck.errors import PotluckError
from potluck.node.cards import LEFT_BYTES, room
from potluck.node.room import Room
from potluck.planning.offload import CARD_RESERVE_BYTES

GIB = 1 << 30
CARD = Gpu("A card", 7 * GIB, 8 * GIB)
OTHER = Gpu("Another card", 3 * GIB, 4 * GIB)
INTEGRATED = Gpu("A part of the CPU", 10 * GIB, 12 * GIB, "integrated card")
APPLE = Gpu("Apple M1", 10 * GIB, 12 * GIB, "unified card")


@pytest.mark.parametrize(
    ("gpus", "asked", "card", "shares"),
    [
        ([], None, 0, True),
        ([CARD], None, 7 * GIB - LEFT_BYTES, False),
        ([CARD], 8 * GIB, 8 * GIB, False),
        ([CARD], 0, 0, False),
        ([CARD], CARD_RESERVE_BYTES, 0, False),
        ([CARD, OTHER], None, 10 * GIB - 2 * LEFT_BYTES - CARD_RESERVE_BYTES, False),
        ([INTEGRATED, CARD], None, 7 * GIB - LEFT_BYTES, False),
        ([INTEGRATED], None, 0, True),
        ([INTEGRATED], 2 * GIB, 2 * GIB, True),
        ([APPLE], None, 10 * GIB - LEFT_BYTES, True),
    ],
)
def test_cards_with_memory_of_their_own_come_first(gpus: list[Gpu], asked: int | None, card: int, shares: bool) -> None:
    assert room(16 * GIB, gpus, asked) == Room(16 * GIB, card, shares)


@pytest.mark.parametrize(
    ("gpus", "reason"),
    [([], "no graphics card that llama.cpp can use"), ([CARD, OTHER], "have 12288 MiB together, not 13312")],
)
def test_a_card_that_is_not_there_cannot_be_used(gpus: list[Gpu], reason: str) -> None:
    with pytest.raises(PotluckError, match=reason):
        room(GIB, gpus, 13 * GIB)
