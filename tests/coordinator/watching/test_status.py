"""The status of guesses, and how people read it."""

import msgspec
from rich.console import Console

from potluck.commands.status import board
from potluck.coordinator.audits.audits import no_audits
from potluck.coordinator.swarm.swarm import Swarm
from potluck.coordinator.swarm.tally import Outcome, Source
from potluck.coordinator.watching.status import Status, swarm_status
from potluck.planning.cost import Footprint


def status(guesses: dict[tuple[Source, Outcome], int], *models: str) -> Status:
    swarm = Swarm("d", Footprint((1,) * 4, 0, 0))
    swarm.tally.guesses.update(guesses)
    return swarm_status(swarm, "toy", "d", 64, no_audits(), 0, guessers=models)


def read(told: Status) -> str:
    """What `potluck status` shows."""
    console = Console(width=120)
    with console.capture() as shown:
        console.print(board(msgspec.json.decode(msgspec.json.encode(told))))
    return shown.get()


def test_guesses_are_told_by_who_was_right() -> None:
    told = status(
        {
            (Source.MODEL, Outcome.RIGHT): 290,
            (Source.REPEAT, Outcome.RIGHT): 3,
            (Source.MODEL, Outcome.WRONG): 60,
            (Source.REPEAT, Outcome.VOID): 59,
        }
    )
    assert told.guesses.fed == 412
    assert told.guesses.right == {Source.PREDICTION: 0, Source.GRAMMAR: 0, Source.REPEAT: 3, Source.MODEL: 290}
    assert told.guesses.told == "71 % of 412 guesses were right."
    assert "\n71 % of 412 guesses were right.\n" in read(told)


def test_where_nobody_guessed_nothing_is_said_of_it() -> None:
    told = status({})
    assert (told.guesses.fed, told.guesses.told) == (0, "")
    assert "guess" not in read(told)
    assert "\n\n" not in read(told)


def test_the_small_models_that_guess_are_named() -> None:
    told = status({}, "small", "other")
    assert told.guesses.models == ["small", "other"]
    assert told.guesses.told == "Small models that guess: small, other."
