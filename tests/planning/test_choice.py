"""The model that a newcomer helps most."""

from __future__ import annotations

import pytest

from potluck.planning.choice import is_completed, most_helped
from potluck.types import Outlook, Prospect, Span


def prospect(lacks: str, then: str, before: float = 0.0, after: float = 0.0) -> Prospect:
    """What spans the model lacks without the newcomer and with it, and its tokens a second."""
    without, joined = (tuple(map(Span.parse, text.split())) for text in (lacks, then))
    return Prospect(Outlook(without, before, before), Outlook(joined, after, after))


COMPLETE = prospect("", "", 10.0, 12.0)
DOUBLED = prospect("", "", 1.0, 2.0)
COMPLETED = prospect("0-3", "", 0.0, 5.0)
BEGUN = prospect("0-9", "4-9")
NEARLY = prospect("0-9", "8-9")
HOPELESS = prospect("0-9", "0-9")


@pytest.mark.parametrize(
    ("prospects", "place"),
    [
        ([COMPLETE], 0),
        ([COMPLETE, COMPLETE], 0),
        ([COMPLETE, DOUBLED], 1),
        ([DOUBLED, COMPLETED], 1),
        ([BEGUN, COMPLETED], 1),
        ([COMPLETE, BEGUN], 1),
        ([BEGUN, NEARLY], 1),
        ([HOPELESS, COMPLETE], 1),
        ([HOPELESS, HOPELESS], 0),
    ],
)
def test_what_is_not_served_comes_first_and_then_what_gets_quickest(prospects: list[Prospect], place: int) -> None:
    assert most_helped(prospects) == place


@pytest.mark.parametrize(
    ("prospect", "helpers", "expected"),
    [(COMPLETED, 1, True), (BEGUN, 1, False), (BEGUN, 2, False), (BEGUN, 3, True), (HOPELESS, 9, False)],
)
def test_whether_several_like_it_complete_a_model(prospect: Prospect, helpers: int, expected: bool) -> None:
    assert is_completed(prospect, helpers) is expected
