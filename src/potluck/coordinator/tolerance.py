"""How far honest nodes that are no twins differ, measured: a table of figures."""

from __future__ import annotations

from potluck.coordinator.verdict import Tolerance
from potluck.types import EngineKind, RowFormat

_TABLE = {
    (EngineKind.LLAMACPP, RowFormat.F32): Tolerance(hidden=0.2, logprob=1.0),
    (EngineKind.LLAMACPP, RowFormat.F16): Tolerance(hidden=0.2, logprob=1.0),
    (EngineKind.TRANSFORMERS, RowFormat.F32): Tolerance(hidden=0.01, logprob=0.05),
    (EngineKind.TRANSFORMERS, RowFormat.F16): Tolerance(hidden=0.01, logprob=0.05),
}


def tolerance(engine: EngineKind, rows: RowFormat) -> Tolerance:
    return _TABLE[engine, rows]
