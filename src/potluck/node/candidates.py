"""Reduces raw logits to the few candidates that leave the node."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Ids = npt.NDArray[np.int32]
Scores = npt.NDArray[np.float32]


def best_candidates(logits: Scores, top: int, asked: Sequence[int]) -> tuple[Ids, Scores, float]:
    """The `top` most likely tokens and the `asked` ones: ids `[m]`, log-probabilities `[m]`, best first, and the
    log-sum-exp.

    logits: `[V]`. Equal log-probabilities are ordered by id, so that the choice does not depend on the machine.
    """
    top = min(top, len(logits))
    if top == 1:
        ids = np.array([logits.argmax()])
    else:
        # Everything that ties with the last of the top competes, and the lower ids win.
        threshold = np.partition(logits, -top)[-top]
        ids = np.flatnonzero(logits >= threshold)
        ids = ids[np.lexsort((ids, -logits[ids]))][:top]
    if asked:
        ids = np.union1d(ids, np.asarray(asked))
        ids = ids[np.lexsort((ids, -logits[ids]))]
    largest = logits.max()
    log_total = float(largest) + float(np.log(np.exp(logits - largest).sum(dtype=np.float64)))
    scores = logits[ids].astype(np.float64) - log_total
    return ids.astype(np.int32), scores.astype(np.float32), log_total
