"""What the forms of hidden rows cost (`--rows`): bytes, time to pack and to read them, and SmolLM2's perplexity.

    python benchmarks/rows.py [--tokens 3000] [--width 6144] [--rounds 500]

The perplexity is that of the first tokens of some pages in this repository, in sessions of 1,000 tokens, through two
and four engines in one process. Between them the rows are packed and read as on the wire. In f32 the number of engines
changes no bit, so that two are asked.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from itertools import product
from pathlib import Path
from statistics import median

import numpy as np

from bench.record import Figure, Measure, below
from bench.report import ROOT, Report, options_parser
from potluck.coordinator.text.opening import open_tokenizer
from potluck.local import demo_model
from potluck.models.sources import open_model
from potluck.types import MAX_STEP_ROWS, RowFormat, even_spans
from potluck.wire.rows import Rows, pack_rows, payload_size, unpack_rows

sys.path.insert(0, str(ROOT / "tests"))
from kit.pipeline import Pipeline, Tokens, surprise

TEXTS = ("tests/data/alice.txt", "README.md", "docs/audits.md", "docs/api.md", "docs/private-network.md")
SESSION_TOKENS = 1000

BYTES = Measure("bytes of one", "count")
PERPLEXITY, DIFFERENCE = Measure("perplexity", "ratio"), Measure("differs from f32's by", "%")


def milliseconds(work: Callable[[], object], rounds: int) -> float:
    """The median of some rounds."""
    taken = []
    for _ in range(rounds):
        start = time.perf_counter()
        work()
        taken.append(time.perf_counter() - start)
    return 1e3 * median(taken)


def cost_of(form: RowFormat, width: int, rounds: int) -> Iterator[Figure]:
    yield BYTES.of(form, payload_size(1, width, form))
    for count in (1, MAX_STEP_ROWS):
        rows: Rows = np.random.default_rng(0).standard_normal((count, width)).astype(np.float32)
        payload = memoryview(pack_rows(rows, form))
        pack = milliseconds(partial(pack_rows, rows, form), rounds)
        read = milliseconds(partial(unpack_rows, payload, count, width, form), rounds)
        yield Measure(f"pack {count}", "ms").of(form, pack)
        yield Measure(f"read {count}", "ms").of(form, read)


def token_sessions(path: Path, count: int) -> list[Tokens]:
    text = "\n".join((ROOT / name).read_text("utf-8") for name in TEXTS)
    tokens = np.array(open_tokenizer(path).encode(text, special=False, bos=False)[:count], np.int32)
    if len(tokens) < count:
        sys.exit(f"The pages have {len(tokens)} tokens only.")
    return [tokens[start : start + SESSION_TOKENS] for start in range(0, count, SESSION_TOKENS)]


def perplexity(path: Path, nodes: int, form: RowFormat, sessions: list[Tokens]) -> float:
    spans = even_spans(open_model(path).layers, nodes)
    with (
        tempfile.TemporaryDirectory() as folder,
        closing(Pipeline(path, spans, Path(folder), SESSION_TOKENS, form)) as pipeline,
    ):
        surprises = [surprise(pipeline, session) for session in sessions]
    return float(np.exp(np.average(surprises, weights=[len(session) - 1 for session in sessions])))


def perplexities(path: Path, sessions: list[Tokens]) -> Iterator[Figure]:
    exact = perplexity(path, 2, RowFormat.F32, sessions)
    yield PERPLEXITY.of("any number of nodes, f32", exact)
    for nodes, form in product((2, 4), (RowFormat.F16, RowFormat.Q8)):
        case, rounded = f"{nodes} nodes, {form}", perplexity(path, nodes, form, sessions)
        yield PERPLEXITY.of(case, rounded)
        yield DIFFERENCE.of(case, 100 * abs(rounded / exact - 1), below(1))


def main() -> None:
    parser = options_parser(__doc__)
    parser.add_argument("--tokens", type=int, default=3000)
    parser.add_argument("--width", type=int, default=6144)
    parser.add_argument("--rounds", type=int, default=500)
    options = parser.parse_args()
    report = Report("rows", options)
    costs = [figure for form in RowFormat for figure in cost_of(form, options.width, options.rounds)]
    path = demo_model()
    told = list(perplexities(path, token_sessions(path, options.tokens)))
    report.add({f"rows of {options.width:,} values": costs, "SmolLM2 through": told})
    report.finish()


if __name__ == "__main__":
    main()
