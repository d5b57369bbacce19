"""`potluck join --guesser MODEL`: a node that guesses with a small model, and serves no layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from potluck.commands.bars import ConsoleReporter
from potluck.commands.running import run
from potluck.commands.terminal import say, waiting
from potluck.errors import PotluckError
from potluck.types import GuesserOffer

if TYPE_CHECKING:
    from potluck.node.config import NodeConfig
    from potluck.node.guesser_agent import OwnModel


def check_only_guesses(options: Sequence[str]) -> None:
    """Raises PotluckError when a node that guesses has options that are for layers."""
    if options:
        raise PotluckError(f"A node with --guesser serves no layers, so it does not take {' and '.join(options)}.")


def guess(config: NodeConfig, *, tries: bool) -> None:
    """Guess with a small model until Ctrl-C. tries: only ask whether it could.

    Raises PotluckError when it cannot guess.
    """
    from potluck.node.guesser_agent import GuesserAgent

    with waiting("Reading the tokenizer"):
        small = _small(config.guesser, config.threads)
    with ConsoleReporter() as reporter:
        agent = GuesserAgent(config, small, reporter)
        run(*((agent.inquire,) if tries else (agent.run, agent.leave)))
    say("This was a dry run: the swarm is unchanged." if tries else "Stopped.")


def _small(name: str, threads: int) -> OwnModel:
    """The small model of this name, of which only the vocabulary is read yet."""
    from potluck.coordinator.guessers import command, open_small, order_for
    from potluck.models.sources import find_model
    from potluck.node.guesser_agent import OwnModel

    small = open_small(find_model(name))
    offer = GuesserOffer(small.outline.name, small.context, small.vocabulary)
    return OwnModel(
        offer, small.pieces, lambda context, vocabulary: command(order_for(small, threads, context, vocabulary))
    )
