"""Whether two computations of the same rows agree. Pure.

Twins compute the same bits, so that any difference is one too many, and none is a coincidence. Other nodes differ in
the last bits by their kernels; what is left of that after a span was measured, and is in a table here.

From `python benchmarks/calibrate.py --tokens 500`: SmolLM2-135M as Q4_1, Q8_0 and Q4_0, in spans of 10 and 15 layers;
a token at a time with the optimised weight layout against 64 rows at a time with the plain one, over f32 and f16 rows,
Q4_0 also over q8 rows, and with rows that one of the two was given rounded. The CPU: an AMD EPYC (AVX-512), where only
Q4_0 has two layouts.

| weights | hidden rows: median, most | log-probabilities: median, most |
|---|---|---|
| Q4_0 | 0.020, 0.038 | 0.22, 0.62 |
| Q4_0, q8 rows | 0.023, 0.042 | 0.20, 0.54 |
| Q4_1, rounded | 0.0001, 0.027 | 0.21, 0.64 |
| Q8_0, rounded | 0.0001, 0.027 | 0.21, 0.55 |

The tolerances are twice the largest of all, because models and machines differ. The transformers engine computes in
float32 or better; its rows are tested to within 1e-4 of the unsplit model, and f16 rows round them by 5e-4. A scale of
q8 rows may round to the next bfloat16, which changes a row by up to 2**-7 if one block is most of it.
"""

from __future__ import annotations

import numpy as np
from msgspec import Struct

from potluck.coordinator.relay.evidence import Answer, Evidence
from potluck.types import MAX_STEP_ROWS, EngineKind, RowFormat
from potluck.wire.rows import Rows, Scored, join_rows, unpack_rows, unpack_scores


class Tolerance(Struct, frozen=True):
    """The largest difference between honest nodes that are not twins.

    hidden: for a hidden row, the length of the difference over the row's own. logprob: for a token's log-probability.
    """

    hidden: float
    logprob: float


_TABLE = {
    (EngineKind.LLAMACPP, RowFormat.F32): Tolerance(hidden=0.08, logprob=1.3),
    (EngineKind.LLAMACPP, RowFormat.F16): Tolerance(hidden=0.08, logprob=1.3),
    (EngineKind.LLAMACPP, RowFormat.Q8): Tolerance(hidden=0.08, logprob=1.3),
    (EngineKind.TRANSFORMERS, RowFormat.F32): Tolerance(hidden=0.01, logprob=0.1),
    (EngineKind.TRANSFORMERS, RowFormat.F16): Tolerance(hidden=0.02, logprob=0.2),
    (EngineKind.TRANSFORMERS, RowFormat.Q8): Tolerance(hidden=0.02, logprob=0.2),
}


def tolerance(engine: EngineKind, rows: RowFormat) -> Tolerance:
    """The tolerance for all quantizations, which differ by less than the margin."""
    return _TABLE[engine, rows]


_LIKELY = -7.0
"""Log-probabilities of less likely tokens vary more from kernel to kernel, and such a token is hardly ever sampled."""


class Judge:
    """The judge of a swarm with hidden rows of `width` values in this form."""

    def __init__(self, width: int, form: RowFormat, tolerance: Tolerance) -> None:
        self._width = width
        self._form = form
        self._tolerance = tolerance

    def agree(self, evidence: Evidence, one: Answer, other: Answer, twins: bool) -> bool:
        """Whether these answers to the evidence's questions can both be right. twins: they are of twins."""
        return one == other if twins else self.difference(evidence, one, other) <= 1.0

    def difference(self, evidence: Evidence, one: Answer, other: Answer) -> float:
        """The largest difference of any row, as a multiple of the tolerance."""
        if evidence.final:
            tops = (asked.top if asked is not None else 0 for asked in evidence.asks)
            rows = zip(one, other, tops, strict=True)
            errors = (
                scores_error(_scores(a), _scores(b), top) for a, b, top in rows if a is not None and b is not None
            )
            return max(errors, default=0.0) / self._tolerance.logprob
        # A few rows at a time, because evidence of megabytes is up to four times as large in float32.
        pieces = [slice(start, start + MAX_STEP_ROWS) for start in range(0, len(one), MAX_STEP_ROWS)]
        worst = (rows_error(self._rows(one[piece]), self._rows(other[piece])).max(initial=0.0) for piece in pieces)
        return float(max(worst, default=0.0)) / self._tolerance.hidden

    def _rows(self, answer: Answer) -> Rows:
        rows = [row for row in answer if row is not None]
        return unpack_rows(memoryview(join_rows(rows, self._form)), len(rows), self._width, self._form)


def _scores(row: bytes) -> Scored:
    return unpack_scores(memoryview(row), ((len(row) - 4) // 8,))[0]


def rows_error(one: Rows, other: Rows) -> Rows:
    """The length of each difference over that of the longer row, for hidden rows `[n, d]`. Returns `[n]`."""
    lengths = np.maximum(np.linalg.norm(one, axis=1), np.linalg.norm(other, axis=1))
    errors: Rows = np.linalg.norm(one - other, axis=1) / np.maximum(lengths, np.finfo(np.float32).tiny)
    return errors


def scores_error(one: Scored, other: Scored, top: int) -> float:
    """The largest difference of a likely token's log-probability, or of the logits' sum.

    top: each of them names this number of the most likely tokens; a token that is not named is no likelier than those.
    """
    first, second = _named(one), _named(other)
    views = ((first, second, _least(other, top)), (second, first, _least(one, top)))
    likely = [
        abs(value - theirs[token]) if token in theirs else value - least
        for mine, theirs, least in views
        for token, value in mine.items()
        if value >= _LIKELY
    ]
    return max(*likely, abs(one[2] - other[2]), 0.0)


def _named(row: Scored) -> dict[int, float]:
    return dict(zip(row[0].tolist(), row[1].tolist(), strict=True))


def _least(row: Scored, top: int) -> float:
    """The log-probability of the last of the `top` most likely tokens; that of nothing if fewer are named."""
    return float(np.sort(row[1])[-top]) if len(row[1]) >= top else -np.inf
