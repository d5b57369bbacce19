"""A child process that runs a model's chat template and tokenizer, within bounds of processor time and memory.

A template comes with the model: it may loop for ever or ask for all memory. Tokenizers are native code, which may take
very long, or crash, over an unusual text. Run it as `python -m potluck.coordinator.text.child MODEL LONGEST`; LONGEST
is the number of bytes of the longest text that will come.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import BinaryIO

from potluck.coordinator.text import pipe
from potluck.coordinator.text.encoder import PlainEncoder, TooManyTokens
from potluck.coordinator.text.opening import open_tokenizer
from potluck.coordinator.text.template import ChatTemplate
from potluck.errors import PotluckError, RequestError
from potluck.platform import OUT_OF_MEMORY, bound_memory, ignore_interrupts, processor_bound, step_back

_TEMPLATE_S = 2.0
"""The processor seconds in which a template is compiled, or renders a chat. A long chat takes about 0.1 s."""

_USUAL = 2 << 20
"""The bytes of a long text. Longer ones have more time and memory in proportion."""

_TOKENIZER_S = 4.0
"""The processor seconds in which a long text is tokenized. The slowest take about 2 s."""

_MEMORY = 512 << 20
"""The bytes that a long text may take beyond the child's size before. The most demanding take about 300 MiB."""


class _Child:
    """Answers requests. out: where its replies go."""

    def __init__(self, encoder: PlainEncoder, out: BinaryIO) -> None:
        self._encoder = encoder
        self._out = out

    def answer(self, request: pipe.Request) -> bytes:
        """The reply, or the last of two."""
        match request:
            case pipe.OfText(text, most):
                return self._tokens(text, most)
            case pipe.OfChat(messages, options, most):
                with processor_bound(_TEMPLATE_S):
                    text, place = self._encoder.prompt(messages, **options)
                    rendered = pipe.Rendered(place, self._encoder.end)
                pipe.send(self._out, pipe.encode(rendered))
                return self._tokens(text, most)
            case pipe.OfPrediction(text, most):
                with processor_bound(_seconds(text)):
                    return pipe.encode(pipe.Tokens(self._encoder.of_prediction(text, most=most)))
            case pipe.Shown(text, bos, pieces):
                with processor_bound(_seconds(text)):
                    return self._encoder.shown(text, bos=bos, pieces=pieces)
            case pipe.TextOf(tokens):
                with processor_bound(_TOKENIZER_S):
                    return pipe.encode(pipe.Text(self._encoder.text_of(tokens)))

    def _tokens(self, text: str, most: int) -> bytes:
        with processor_bound(_seconds(text)):
            return pipe.encode(pipe.Tokens(self._encoder.of_text(text, most=most)))


def _seconds(text: str) -> float:
    return _TOKENIZER_S * max(1.0, len(text) / _USUAL)


def _serve(model: Path, longest: int, requests: BinaryIO, out: BinaryIO) -> None:
    """Answer requests until the parent is gone."""
    try:
        tokenizer = open_tokenizer(model)
        bound_memory(_MEMORY * max(1, longest // _USUAL))
        with processor_bound(_TEMPLATE_S):
            template = ChatTemplate(tokenizer.chat_template, tokenizer.bos, tokenizer.eos, tokenizer.tool_template)
            tokenizer.encode("", special=True, bos=False)  # a tokenizer may prepare itself at its first text
    except PotluckError as error:
        pipe.send(out, pipe.encode(pipe.Broken(str(error))))
        return
    child = _Child(PlainEncoder(tokenizer, template), out)
    thinking = template.thinking.name if template.thinking else None
    pipe.send(out, pipe.encode(pipe.Ready(template.calls.name, thinking, tuple(template.stops))))
    while (body := pipe.receive(requests)) is not None:
        try:
            reply = child.answer(pipe.decode_request(body))
        except TooManyTokens as error:
            reply = pipe.encode(pipe.TooMany(error.count))
        except RequestError as error:
            reply = pipe.encode(pipe.Refused(str(error), error.status, error.param))
        pipe.send(out, reply)


def main(model: Path, longest: int) -> None:
    ignore_interrupts()
    step_back()
    requests, out = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # a library that prints must not be heard as a reply
    try:
        _serve(model, longest, requests, out)
    except MemoryError:
        os._exit(OUT_OF_MEMORY)
    except BrokenPipeError:
        os._exit(0)  # the parent is gone


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
