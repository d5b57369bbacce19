"""What `potluck join` asks its owner where no URL is given."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from potluck.commands.joining import chosen, says_yes, terms
from potluck.errors import PotluckError
from potluck.node.config import NodeConfig
from potluck.node.room import Room
from potluck.wire.beacon import Beacon
from potluck.wire.identity import Identity

PRIVATE = Beacon("192.168.1.5", 8470, "", "toy", "0.1.0", private=True, secure=False)
OPEN = Beacon("192.168.1.6", 443, "/swarm", "toy", "0.1.0", private=False, secure=True)


def answers(*texts: str) -> Callable[[str], str]:
    """A person who says this, and then nothing any more."""
    left = iter(texts)
    return lambda _: next(left, "")


@pytest.mark.parametrize(
    ("texts", "url"),
    [
        (["2"], OPEN.url),
        (["1", "SECRET.KEY"], f"{PRIVATE.url}#SECRET.KEY"),
        (["1", ""], PRIVATE.url),
        (["1", "https://potluck.example.org/#SECRET.KEY"], "https://potluck.example.org/#SECRET.KEY"),
        (["3", "0", "-1", "9" * 5000, "1", "S.K"], f"{PRIVATE.url}#S.K"),
        (["http://10.0.0.1:8470/#S.K"], "http://10.0.0.1:8470/#S.K"),
        (['potluck join "http://10.0.0.1:8470/#S.K"'], "http://10.0.0.1:8470/#S.K"),
        (["http://[", "ftp://x", "http://10.0.0.1"], "http://10.0.0.1"),
    ],
)
def test_what_is_chosen(texts: list[str], url: str) -> None:
    assert chosen([PRIVATE, OPEN], answers(*texts)) == url


def test_who_says_nothing_has_chosen_nothing() -> None:
    with pytest.raises(PotluckError, match=r"^No coordinator was chosen, so nothing has happened\.$"):
        chosen([PRIVATE], answers())


def test_a_wrong_answer_is_answered(capsys: pytest.CaptureFixture[str]) -> None:
    chosen([OPEN], answers("7", "http://[", "1"))
    told = capsys.readouterr().out.splitlines()
    assert told[0] == "There is no number 7 in the list."
    assert "is not a coordinator's URL" in told[1]


def config(threads: int, upload: float | None) -> NodeConfig:
    return NodeConfig("http://10.0.0.1", "anna", None, None, Room(1 << 30), threads, Identity.fresh(), upload=upload)


def test_what_the_node_takes() -> None:
    assert terms(config(1, None), "/cache", None) == [
        "It computes with at most one thread, and with fewer while other programs need the cores.",
        "Its layers stay on disk in /cache, without a limit (--cache-limit sets one).",
        "It sends as fast as it can (--upload limits that).",
    ]
    assert terms(config(4, 10e6 / 8), "/cache", 50 << 30) == [
        "It computes with at most 4 threads, and with fewer while other programs need the cores.",
        "Its layers stay on disk in /cache, at most 51,200 MiB of all models.",
        "It sends at most 10 Mbit/s on average.",
    ]


@pytest.mark.parametrize(("text", "yes"), [("y", True), ("YES", True), ("", False), ("n", False), ("yeah?", False)])
def test_only_yes_is_yes(text: str, yes: bool) -> None:
    assert says_yes("Join now?", answers(text)) is yes
