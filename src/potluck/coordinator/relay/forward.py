"""One forward pass, as its session describes it. The relay adds where it goes."""

from __future__ import annotations

from msgspec import Struct


class Forward(Struct, frozen=True, kw_only=True, gc=False):
    """Positions `position` … `position + rows - 1` of a session. step: its number, counted from 0.

    guessed: its token is a guess, of which nobody knows yet whether it will come.
    top, asks, keep: as in `wire.messages.Step`.
    """

    session: int
    step: int
    position: int
    rows: int
    top: int = 1
    asks: tuple[tuple[int, ...], ...] = ()
    keep: bool = False
    guessed: bool = False
