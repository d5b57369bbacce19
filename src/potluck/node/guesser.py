"""The process of a small model that guesses: `python -m potluck.node.guesser ORDER`, with its frames on its pipes.

It ends when its parent does, whatever it computes at the time.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from queue import SimpleQueue
from typing import BinaryIO

import msgspec

from potluck.engine.base import Engine
from potluck.engine.probe import Trial, stop_probes
from potluck.errors import PotluckError
from potluck.node.guessing import Guessing
from potluck.node.hardware import Cores
from potluck.node.loading import load_file
from potluck.platform import ignore_interrupts
from potluck.types import Attention, Span
from potluck.wire.guessing import Broken, FromGuesser, Loaded, Order, Ping, Pong, ToGuesser, framed, receive


class _Guesser:
    """Guesses with a loaded engine as it is told on a pipe. out: where the guesses go."""

    def __init__(self, out: BinaryIO) -> None:
        self._out = out
        self._told: SimpleQueue[ToGuesser] = SimpleQueue()

    def listen(self, pipe: BinaryIO) -> None:
        """Take in what is said, on a thread of its own, until nobody is there to say more."""
        try:
            while (message := receive(pipe)) is not None:
                self._told.put(message)
        finally:
            stop_probes()
            os._exit(0)  # without waiting for what is being computed

    def say(self, message: FromGuesser) -> None:
        self._out.write(framed(message))
        self._out.flush()

    def serve(self, engine: Engine, order: Order) -> None:
        """Guess for ever. Between two tokens it heeds what was said meanwhile."""
        # As nodes do: one that had to wait for a process with a lower priority would wait for all others as well.
        cores = Cores(order.threads)
        guessing = Guessing(engine, order.vocabulary, self.say, time.perf_counter)
        self.say(Loaded())
        while True:
            while not guessing.is_wanted or not self._told.empty():
                match self._told.get():
                    case Ping():
                        self.say(Pong())
                    case message:
                        guessing.take(message)
            with cores.share() as own:
                engine.use_cores(own)
                guessing.run()


def _load(order: Order) -> Engine:
    span = Span(0, order.layers - 1)
    trial = Trial(order.path, span, order.layers, Attention.EXACT, order.threads, extra_buffers=True)
    return load_file(trial, order.capacity, lambda *_: None)


def main(order: Order) -> None:
    ignore_interrupts()
    requests, out = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # a library that prints must not be heard
    guesser = _Guesser(out)
    threading.Thread(target=guesser.listen, args=(requests,), daemon=True).start()
    try:
        guesser.serve(_load(order), order)
    except PotluckError as error:
        guesser.say(Broken(str(error)))
    except BrokenPipeError:
        os._exit(0)  # the parent is gone


if __name__ == "__main__":
    main(msgspec.json.decode(sys.argv[1], type=Order))
