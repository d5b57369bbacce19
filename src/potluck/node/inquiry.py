"""Asks the coordinator what this node would be given and what the swarm would gain, without joining."""

from __future__ import annotations

from potluck.node.announcement import announcement
from potluck.node.background import Worker
from potluck.node.config import NodeConfig
from potluck.node.hardware import read_rate
from potluck.node.introduction import Introduction, answer
from potluck.node.loading import model_digest, needs, opened
from potluck.node.pins import Pins, pins_path
from potluck.node.progress import Reporter
from potluck.node.redialling import dial_once
from potluck.wire.messages import Welcome


async def inquire(config: NodeConfig, reporter: Reporter) -> None:
    """Show the owner what joining would mean. Only the model's manifest is downloaded, and the coordinator changes
    nothing.

    Raises PotluckError when nobody answers, when the coordinator refuses this node, or when the layers would not fit.
    """
    worker = Worker()
    digest = await worker.run(model_digest, config.model, reporter)
    bytes_per_s = await worker.run(read_rate, config.threads)
    waiting = f"Waiting for {config.url}"
    reporter.progress(waiting, None)
    link = await dial_once(config.url)
    try:
        introduction = Introduction(config.identity, config.url, config.invite, Pins(pins_path()), reporter.say)
        await introduction.make(link, config.hello(digest, bytes_per_s, joins=False))
        answered = await answer(link)
        told = [answered] if isinstance(answered, str) else await worker.run(announce, config, answered)
        reporter.progress(waiting, 1.0)
        for sentence in told:
            reporter.say(sentence)
    finally:
        await link.close()


def announce(config: NodeConfig, welcome: Welcome) -> list[str]:
    """The announcement for this welcome. This call blocks, because it reads the manifest."""
    with opened(config.url, config.model, welcome) as (manifest, _):
        return announcement(welcome, needs(manifest, welcome, config.room), config.room, config.url, config.model)
