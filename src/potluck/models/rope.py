"""Rotary position embeddings: what config.json says of them, under old and new keys, and what llama.cpp is told.

Everything here is a pure function of config.json. `where` is the path of that file, for messages.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from potluck.errors import ModelError
from potluck.models.fields import Config, Entries, field, of_float, of_uint

_BASES: dict[Any, float] = {"gemma3_text": 1e6}
"""The bases of models whose files leave them out, where it is not 10,000."""
_SHARES = ("partial_rotary_factor", "rotary_pct", "rope_pct")


def rope(config: Config) -> dict[str, Any]:
    """The rope parameters under today's names, from today's `rope_parameters` or from the older keys.

    Where kinds of layers have their own, they are those of the layers that attend to all positions.
    """
    old, new = config.get("rope_scaling") or {}, config.get("rope_parameters") or {}
    if isinstance(full := new.get("full_attention"), dict):
        new = full
    merged = {
        "rope_theta": config.get(
            "rope_theta", config.get("rotary_emb_base", _BASES.get(config.get("model_type"), 1e4))
        ),
        "rope_type": old.get("type", "default"),
        "partial_rotary_factor": next((config[key] for key in _SHARES if config.get(key) is not None), None),
        **old,
        **new,
    }
    return {key: value for key, value in merged.items() if value is not None}


def rope_limit(config: Config) -> tuple[str, int] | None:
    """The kind of the rope scaling, and the positions up to which its factors do not depend on a session's length.

    Beyond them transformers takes the factors of the longest session in a batch for all, so that no session may be
    longer. None if factors never change.
    """
    return min(_limits(config), key=lambda found: found[1], default=None)


def _limits(config: Config) -> Iterator[tuple[str, int]]:
    longest = config.get("max_position_embeddings")
    for parameters in _each(config):
        trained = config.get("original_max_position_embeddings") or parameters.get("original_max_position_embeddings")
        limit = None
        if parameters.get("rope_type") == "dynamic":
            limit = longest
        elif is_longrope(parameters):
            limit = trained or longest
        if type(limit) is int and limit > 0:
            yield ("dynamic" if parameters.get("rope_type") == "dynamic" else "longrope"), limit


def is_longrope(parameters: dict[str, Any]) -> bool:
    """Whether these are the factors of LongRoPE, which was also called "su" and "yarn"."""
    return parameters.get("rope_type") in ("longrope", "su") or "long_factor" in parameters


def _each(config: Config) -> list[dict[str, Any]]:
    """The rope parameters; those of each kind of layer where these have their own."""
    own = (config.get("rope_parameters") or {}).values()
    return [rope(config), *(each for each in own if isinstance(each, dict))]


def scaling(where: str, config: Config) -> Entries:
    """The keys of the rope scaling. The type llama3 has none: see `rope_factors`."""
    parameters = rope(config)
    kind = parameters["rope_type"]
    if kind not in ("linear", "yarn"):
        return {}
    entries: Entries = {
        "rope.scaling.type": (["STRING"], kind),
        "rope.scaling.factor": of_float(field(where, parameters, "factor")),
    }
    if kind == "yarn":
        trained = parameters.get("original_max_position_embeddings") or field(where, config, "max_position_embeddings")
        entries["rope.scaling.original_context_length"] = of_uint(trained)
        for beta in ("beta_fast", "beta_slow"):
            if beta in parameters:
                entries[f"rope.scaling.yarn_{beta}"] = of_float(parameters[beta])
    return entries


def rope_factors(where: str, config: Config, size: int) -> npt.NDArray[np.float32] | None:
    """The number by which llama.cpp divides each rope frequency, `[size / 2]`; None if frequencies are not scaled.

    size: the values of a head that are rotated. Llama 3.1 keeps short wavelengths, divides long ones by `factor`, and
    blends those in between.
    """
    parameters = rope(config)
    if parameters["rope_type"] != "llama3":
        return None
    factor, low, high, trained = (
        float(field(where, parameters, key))
        for key in ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
    )
    if low >= high:
        raise ModelError(f"{where} has a low_freq_factor that is not below its high_freq_factor; fetch it again.")
    wavelengths = 2 * math.pi * float(field(where, parameters, "rope_theta")) ** (np.arange(0, size, 2) / size)
    blend = (trained / wavelengths - low) / (high - low)
    factors = 1 / ((1 - blend) / factor + blend)
    factors = np.where(wavelengths < trained / high, 1.0, np.where(wavelengths > trained / low, factor, factors))
    return factors.astype(np.float32)
