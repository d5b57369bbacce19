"""How far honest nodes that are no twins differ, measured: a table of figures.

From `python benchmarks/calibrate.py --tokens 500`: SmolLM2-135M as Q4_1, Q8_0 and Q4_0, in spans of 10 and 15 layers;
a token at a time with the optimised weight layout against 64 rows at a time with the plain one, over f32 and f16 rows,
and with rows that one of the two was given rounded. The CPU: an AMD EPYC (AVX-512), where only Q4_0 has two layouts.

| weights | hidden rows: median, most | log-probabilities: median, most |
|---|---|---|
| Q4_0 | 0.020, 0.038 | 0.22, 0.62 |
| Q4_1, rounded | 0.0001, 0.027 | 0.21, 0.64 |
| Q8_0, rounded | 0.0001, 0.027 | 0.21, 0.55 |

The tolerances are twice the largest of all, because models and machines differ. The transformers engine computes in
float32 or better; its rows are tested to within 1e-4 of the unsplit model, and f16 rows round them by 5e-4.
"""

from __future__ import annotations

from potluck.coordinator.verdict import Tolerance
from potluck.types import EngineKind, RowFormat

_TABLE = {
    (EngineKind.LLAMACPP, RowFormat.F32): Tolerance(hidden=0.08, logprob=1.3),
    (EngineKind.LLAMACPP, RowFormat.F16): Tolerance(hidden=0.08, logprob=1.3),
    (EngineKind.TRANSFORMERS, RowFormat.F32): Tolerance(hidden=0.01, logprob=0.1),
    (EngineKind.TRANSFORMERS, RowFormat.F16): Tolerance(hidden=0.02, logprob=0.2),
}


def tolerance(engine: EngineKind, rows: RowFormat) -> Tolerance:
    """Of all quantizations: they differ by less than the margin."""
    return _TABLE[engine, rows]
