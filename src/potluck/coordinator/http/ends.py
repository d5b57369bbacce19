"""What ends an answer besides the model's own end: strings and tokens of the request, and the end of a chat's turn."""

from __future__ import annotations

from typing import NamedTuple

from potluck.coordinator.http.requests import Common
from potluck.coordinator.text.controls import Controls


class Ends(NamedTuple):
    """The strings and the tokens that end an answer. shown: the control tokens that the strings name, without whose
    text no such string would be found.
    """

    stops: tuple[str, ...]
    ids: frozenset[int]
    shown: frozenset[int]


def ends_of(asked: Common, controls: Controls, usual: tuple[str, ...] = (), turn_end: str | None = None) -> Ends:
    """What ends the answers to a request. usual: strings that end every chat.

    turn_end: what the template writes after an answer. It counts like the model's own end.
    """
    end = "" if asked.ignore_eos or turn_end is None else turn_end
    token = controls.named(end)
    stops = (*asked.stops, *usual, *([end] if end and token is None else []))
    ids = frozenset([*(asked.stop_token_ids or []), *([] if token is None else [token])])
    return Ends(stops, ids, frozenset().union(*map(controls.in_text, stops)))
