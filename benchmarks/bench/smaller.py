"""Small models that guess for a model: copies of it with coarser weights or fewer layers."""

from __future__ import annotations

from pathlib import Path

import llama_cpp
from gguf import GGUFReader, GGUFValueType, GGUFWriter

KINDS = {"Q8_0": llama_cpp.LLAMA_FTYPE_MOSTLY_Q8_0, "Q4_0": llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_0}
COARSE = {"Q4_0": KINDS["Q4_0"], "Q2_K": llama_cpp.LLAMA_FTYPE_MOSTLY_Q2_K}
"""The kinds of weights of guessers."""


def small_model(model: Path, name: str, folder: Path) -> Path:
    """The guesser of this name: "itself", a kind such as "Q4_0", "20 layers" for as many of its own, or a file.

    Ends the program if there is no such guesser.
    """
    count, _, layers = name.partition(" ")
    if name == "itself":
        return model
    if name in COARSE:
        return requantized(model, COARSE[name], folder)
    if layers == "layers" and count.isdecimal():
        return shortened(model, int(count), folder)
    if not Path(name).exists():
        raise SystemExit(f"{name} is no guesser: give itself, {', '.join(COARSE)}, '20 layers' or a file.")
    return Path(name)


def requantized(model: Path, kind: int, folder: Path) -> Path:
    """A copy of the model with weights of another kind, a number of llama.cpp's."""
    out = folder / f"{kind}.gguf"
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype, params.allow_requantize, params.nthread = kind, True, 2
    if llama_cpp.llama_model_quantize(str(model).encode(), str(out).encode(), params):
        raise SystemExit(f"llama.cpp could not quantize {model}.")
    return out


def shortened(model: Path, layers: int, folder: Path) -> Path:
    """A copy of the model with so many of its layers: those of the middle are left out, which it can best do without.

    Nothing is trained, so that it guesses worse than a small model that was.
    """
    reader, out = GGUFReader(model), folder / f"{layers}-layers.gguf"
    architecture = str(reader.fields["general.architecture"].contents())
    count = f"{architecture}.block_count"
    all_layers = int(reader.fields[count].contents())
    begin = (all_layers - layers + 1) * 2 // 3
    kept = [*range(begin), *range(begin + all_layers - layers, all_layers)]
    writer = GGUFWriter(out, architecture)
    for name, field in reader.fields.items():
        if not name.startswith("GGUF.") and name != "general.architecture":
            value = layers if name == count else field.contents()
            kind, inner = field.types[0], field.types[-1]
            writer.add_key_value(name, value, kind, inner if kind is GGUFValueType.ARRAY else None)
    for tensor in reader.tensors:
        name = tensor.name
        if name.startswith("blk."):
            _, layer, rest = name.split(".", 2)
            if int(layer) not in kept:
                continue
            name = f"blk.{kept.index(int(layer))}.{rest}"
        writer.add_tensor(name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return out
