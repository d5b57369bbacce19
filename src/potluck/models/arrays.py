"""Fetches tensors as NumPy arrays, checks them against the manifest, and turns them into float32."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from potluck.errors import IntegrityError, ModelError
from potluck.models.files import Progress, Source
from potluck.models.manifest import Tensor

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float32]

_TRIES = 2

DTYPES: dict[str, npt.DTypeLike] = {
    "BOOL": np.bool_,
    "U8": np.uint8,
    "I8": np.int8,
    "F8_E4M3": np.uint8,
    "F8_E5M2": np.uint8,
    "I16": np.int16,
    "U16": np.uint16,
    "F16": np.float16,
    "BF16": np.uint16,
    "I32": np.int32,
    "U32": np.uint32,
    "F32": np.float32,
    "I64": np.int64,
    "U64": np.uint64,
    "F64": np.float64,
}
"""The NumPy type that holds a tensor's items. NumPy has no bfloat16 and no 8-bit floats, so these are kept as their
bits."""


def read_array(tensor: Tensor, source: Source, progress: Progress = lambda _: None) -> Array:
    """A tensor of a Hugging Face model in its own shape; if `tensor.dtype` is "BF16", its bits as uint16.

    Raises IntegrityError when the bytes have the wrong SHA-256 twice, ModelError when the source fails.
    """
    buffer = np.empty(tensor.nbytes, np.uint8)

    def fetch() -> str:
        digest, done = hashlib.sha256(), 0
        for chunk in source.fetch(tensor):
            buffer[done : done + len(chunk)] = np.frombuffer(chunk, np.uint8)
            digest.update(chunk)
            progress(len(chunk))
            done += len(chunk)
        check_length(tensor, done)
        return digest.hexdigest()

    fetch_verified(tensor, source, fetch, progress)
    return buffer.view(DTYPES[tensor.dtype]).reshape(tensor.shape)


def fetch_verified(tensor: Tensor, source: Source, fetch: Callable[[], str], progress: Progress) -> None:
    """Call `fetch`, which brings bytes from `source` and returns their SHA-256, until it is right; at most twice."""
    for _ in range(_TRIES):
        if fetch() == tensor.sha256:
            return
        progress(-tensor.nbytes)
        source.distrust(tensor)
    raise IntegrityError(
        f"Tensor {tensor.name} of {tensor.file} arrived twice with the wrong SHA-256; its source is broken."
    )


def check_length(tensor: Tensor, done: int) -> None:
    """Raises ModelError unless the number of bytes that arrived is the tensor's."""
    if done != tensor.nbytes:
        raise ModelError(f"The source gave {done} of the {tensor.nbytes} bytes of {tensor.name} in {tensor.file}.")


def to_float32(values: Array, dtype: str) -> Floats:
    """The values of `read_array` for this dtype as float32. Raises ModelError when the dtype is not one of plain
    floats.
    """
    if dtype == "BF16":  # the upper half of a float32
        return (values.astype(np.uint32) << np.uint32(16)).view(np.float32)
    if dtype in ("F16", "F32", "F64"):
        return values.astype(np.float32, copy=False)
    raise ModelError(f"Weights of the type {dtype} cannot be converted; fetch the model's unquantized files.")
