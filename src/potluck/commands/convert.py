"""`potluck convert` writes a Hugging Face model as one GGUF file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from potluck.commands.bars import bar, checking
from potluck.commands.terminal import say
from potluck.errors import PotluckError
from potluck.types import Quantize


def convert(
    model: Annotated[Path, typer.Argument(metavar="DIRECTORY", help="A Hugging Face directory.")],
    out: Annotated[Path, typer.Argument(metavar="OUT.gguf", help="The GGUF file to write.")],
    quantize: Annotated[Quantize, typer.Option(metavar="TYPE", help="q8_0, q4_0, f16 or bf16.")] = Quantize.Q8_0,
) -> None:
    """Write a Hugging Face model as one GGUF file, for llama.cpp too."""
    from potluck.models.convert import QUANTIZE
    from potluck.models.modelfile import write_model_file
    from potluck.models.sources import local_source, open_model, weights_size

    if quantize not in QUANTIZE:
        raise PotluckError(f"A GGUF file can be quantized to {', '.join(QUANTIZE)}, not {quantize}.")
    with checking(weights_size(model)) as advance:
        manifest = open_model(model, advance)
    with bar("Converting", weights_size(model)) as advance:
        write_model_file(manifest, out, quantize, local_source(model), advance)
    say(f"{out} contains {manifest.name} in {quantize} and takes {out.stat().st_size >> 20} MiB.")
