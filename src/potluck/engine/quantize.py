"""Quantizes the weights of a span's linear layers with torchao, an optional dependency."""

from __future__ import annotations

from typing import Any, Literal

from torch import nn

from potluck.errors import EngineError

Quantize = Literal["int8", "int4"]


def quantize_linears(module: nn.Module, quantize: Quantize) -> None:
    """Replace the weights of every nn.Linear in `module`, in place.

    Experts that a family fuses into one tensor are not nn.Linear and stay as they are. For int4, so do weights whose
    rows are not a multiple of 32 long. Raises EngineError without torchao, or when it cannot quantize on this device.
    """
    try:
        from torchao.quantization import quantize_
    except ImportError as error:
        raise EngineError(f"Quantizing to {quantize} needs torchao: pip install torchao.") from error
    try:
        quantize_(module, _config(quantize, next(module.parameters()).device.type))
    except Exception as error:
        raise EngineError(f"torchao cannot quantize these weights to {quantize}: {error}.") from error


def _config(quantize: Quantize, device: str) -> Any:
    """The configuration of torchao. Its inductor settings are for compiled models and change global state; we compile
    nothing.
    """
    if quantize == "int8":
        from torchao.quantization import Int8WeightOnlyConfig

        return Int8WeightOnlyConfig(set_inductor_config=False)
    # 32 weights a scale, as in llama.cpp's q4; each packing is the one that PyTorch's own int4 kernels read.
    if device == "cpu":
        from torchao.prototype.quantization.int4 import PrototypeInt4WeightOnlyConfig

        return PrototypeInt4WeightOnlyConfig(group_size=32, set_inductor_config=False)
    from torchao.quantization import Int4WeightOnlyConfig

    return Int4WeightOnlyConfig(group_size=32, int4_packing_format="tile_packed_to_4d", set_inductor_config=False)
