"""A program that loads the llama.cpp library and reports what it is, as JSON in the last line of its output."""

from __future__ import annotations

import sys

import msgspec

from potluck.engine.library_report import Gpu, Library, parse_kernels
from potluck.engine.tap import compiled_library
from potluck.llama.devices import cards
from potluck.llama.library import load

_DIGITS = 16


def report() -> Library:
    library = load()
    llama, ggml = library.version
    return Library(
        name=library.files.name,
        told=library.files.told,
        llama=llama,
        ggml=ggml,
        digest=library.build[:_DIGITS],
        kernels=parse_kernels(library.llama_print_system_info().decode()),
        for_gpus=library.is_for_cards(),
        gpus=tuple(Gpu(card.name, card.free, card.total, card.kind) for card in cards(library)),
        compiled_tap=compiled_library() is not None,
    )


if __name__ == "__main__":
    sys.stdout.buffer.write(b"\n" + msgspec.json.encode(report()) + b"\n")  # whatever the console's encoding is
