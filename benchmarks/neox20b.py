"""A model of GPT-NeoX-20B's size on nodes of one machine: the time per token against the memory's bound.

    python benchmarks/neox20b.py [--layers 44] [--nodes 4] [--threads 2] [--tokens 16] [--rounds 6]

The weights and the tokenizer are made up, because speed depends on their size alone. All 44 layers in Q4_0 take 11.5
GB. They need twice that on disk, for the model and for the span files that the nodes make of it, and 16 GB of free
memory. The files lie in the temporary folder (TMPDIR) and are removed at the end, even after Ctrl-C.

A token reads every weight once, so the bytes of the weights over the memory's bandwidth bound its seconds from below.
The bandwidth is measured before every answer, while the nodes wait, by `np.add.reduce` over 1 GiB of uint64 in as many
threads as a node computes with. All traffic of the nodes passes through a proxy that counts it.

If the free memory can hold the weights twice, as with `--layers 8 --nodes 3` in 8 GB, the unsplit engine answers in
turns with the nodes, with as many threads as each of them has. Its answers must be the same.
"""

from __future__ import annotations

import argparse
import os
import shutil
import socket
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import psutil
from gguf import GGMLQuantizationType, GGUFWriter

from bench import neox
from bench.bandwidth import bandwidth
from bench.engines import Engines
from bench.links import Proxy
from bench.record import Figure, Measure, at_least, below
from bench.report import Report, options_parser
from bench.streams import ask_whole, check_answers
from potluck.coordinator.model_choice import usual_footprint
from potluck.local import LocalSwarm
from potluck.models.manifest import Manifest
from potluck.models.sizes import part_sizes
from potluck.models.sources import open_model
from potluck.node.hardware import free_memory, physical_cores
from potluck.types import EngineKind, Quantize, RowFormat, Span
from potluck.wire.rows import payload_size

LAYERS, HIDDEN, HEADS, FEED_FORWARD, VOCABULARY = 44, 6144, 64, 24576, 50432
EMBEDDING = "token_embd.weight"
BLOCK, BLOCK_BYTES = 32, 18
NODE_SPARE = 1 << 30
"""Of memory for a node, beside its weights: the KV cache of two sessions of full length, buffers, and Python."""

PROMPT = list(range(1000, 1128))
GB = 1e9

TOKEN, BOUND = Measure("time per token", "s"), Measure("the memory's bound", "s")
OVER_BOUND = Measure("relative to the bound", "ratio")
OVER_UNSPLIT = Measure("speed relative to unsplit", "ratio")
FIRST = Measure("time to the first token", "s")
RSS, WEIGHTS = Measure("resident memory", "GB"), Measure("weights", "GB")

Array = np.ndarray[Any, Any]


def random_tensor(random: np.random.Generator, *shape: int) -> Array:
    """A matrix as rows of Q4_0 blocks (a float16 scale, then 32 nibbles n for scale · (n - 8)), or a float32 vector."""
    if len(shape) == 1:
        return random.standard_normal(shape, np.float32) * np.float32(0.1)
    rows, columns = shape
    blocks = random.integers(0, 256, (rows * columns // BLOCK, BLOCK_BYTES), np.uint8)
    # Nibbles deviate by 4.6; with this scale a matrix keeps the size of what it is multiplied with.
    blocks[:, :2] = np.array([1 / (4.6 * columns**0.5)], "<f2").view(np.uint8)
    return blocks.reshape(rows, -1)


def random_layer(random: np.random.Generator) -> dict[str, Array]:
    tensors = {}
    for name, rows, columns in (
        ("attn_qkv", 3 * HIDDEN, HIDDEN),
        ("attn_output", HIDDEN, HIDDEN),
        ("ffn_up", FEED_FORWARD, HIDDEN),
        ("ffn_down", HIDDEN, FEED_FORWARD),
    ):
        tensors[f"{name}.weight"] = random_tensor(random, rows, columns)
        tensors[f"{name}.bias"] = random_tensor(random, rows)
    return {**tensors, **random_norm(random, "attn_norm"), **random_norm(random, "ffn_norm")}


def random_norm(random: np.random.Generator, name: str) -> dict[str, Array]:
    return {f"{name}.weight": 1 + random_tensor(random, HIDDEN), f"{name}.bias": random_tensor(random, HIDDEN)}


def write_model(path: Path, layers: int) -> None:
    """Write the model. Its layers are one layer with shifted rows, which is random enough and takes only seconds."""
    random = np.random.default_rng(0)
    layer = random_layer(random)
    ends = random_norm(random, "output_norm")
    for name in (EMBEDDING, "output.weight"):
        ends[name] = random_tensor(random, VOCABULARY, HIDDEN)
    writer = GGUFWriter(path, "gptneox")
    neox.add_metadata(writer, layers=layers, hidden=HIDDEN, heads=HEADS, feed_forward=FEED_FORWARD)
    neox.add_tokenizer(writer, VOCABULARY)
    for name, values, _ in all_tensors(layer, ends, layers):
        dtype = GGMLQuantizationType.Q4_0 if values.ndim == 2 else GGMLQuantizationType.F32
        writer.add_tensor_info(name, values.shape, values.dtype, values.nbytes, dtype)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for _, values, shift in all_tensors(layer, ends, layers):
        writer.write_tensor_data(np.roll(values, shift, axis=0))
    writer.close()


def all_tensors(layer: dict[str, Array], ends: dict[str, Array], layers: int) -> Iterator[tuple[str, Array, int]]:
    """The name of each tensor, its values, and how many rows to shift them by."""
    for name, values in ends.items():
        yield name, values, 0
    for number in range(layers):
        for name, values in layer.items():
            yield f"blk.{number}.{name}", values, number


class Meter(Proxy):
    """A proxy that counts the bytes of all connections, both ways."""

    def __init__(self, url: str) -> None:
        self._lock = threading.Lock()
        self.nbytes = 0
        super().__init__(url)

    def start(self, source: socket.socket, sink: socket.socket) -> None:
        threading.Thread(target=self._carry, args=(source, sink), daemon=True).start()

    def _carry(self, source: socket.socket, sink: socket.socket) -> None:
        """Carry bytes until either end hangs up."""
        try:
            while data := source.recv(1 << 16):
                with self._lock:
                    self.nbytes += len(data)
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            sink.close()


def weight_bytes(layers: int) -> float:
    return layers * 255e6 + 350e6


def check_room(layers: int) -> None:
    """End the program if the machine is too small, before anything is written."""
    weights = weight_bytes(layers)
    folder = tempfile.gettempdir()
    if filesystem(folder) in ("tmpfs", "ramfs"):
        sys.exit(f"{folder} is kept in memory: set TMPDIR to a folder on a disk.")
    free, needed = shutil.disk_usage(folder).free, (3 if holds_twice(layers) else 2) * weights + 1e9
    if free < needed:
        sys.exit(f"{needed / GB:.0f} GB of disk are needed, and {folder} has {free / GB:.0f}: set TMPDIR.")
    if free_memory() < 1.4 * weights:
        sys.exit(
            f"{1.4 * weights / GB:.0f} GB of free memory are needed, not {free_memory() / GB:.0f}: close something."
        )


def holds_twice(layers: int) -> bool:
    """Whether there is memory for the unsplit engine beside the nodes."""
    return free_memory() > 2.8 * weight_bytes(layers)


def filesystem(folder: str) -> str:
    path = Path(folder).resolve()
    mounts = [mount for mount in psutil.disk_partitions(all=True) if path.is_relative_to(mount.mountpoint)]
    return max(mounts, key=lambda mount: len(mount.mountpoint)).fstype


def start_nodes(swarm: LocalSwarm, url: str, path: Path, manifest: Manifest, options: argparse.Namespace) -> list[Span]:
    """Start the nodes one after the other, because a node disturbs the others while it proves its span."""
    spans = usual_footprint(manifest).share(options.nodes)
    sizes = part_sizes(manifest, EngineKind.LLAMACPP, Quantize.Q4_0)

    def ready(count: int, status: dict[str, Any]) -> bool:
        return [node["state"] for node in status["nodes"]].count("ready") == count

    for count, span in enumerate(spans, 1):
        memory = f"{(sizes.of(span) + NODE_SPARE) >> 20}M"
        threads = str(options.threads)
        arguments = ["--model", str(path), "--memory", memory, "--threads", threads, "--name", f"layers {span}"]
        swarm.add_node(str(span), *arguments, url=url)
        swarm.wait_until(partial(ready, count))
    return spans


def node_figures(swarm: LocalSwarm, spans: list[Span], manifest: Manifest) -> list[dict[str, Any]]:
    """The memory in bytes and the speed of each node. RSS counts shared pages fully, PSS in parts, USS not at all."""
    sizes = part_sizes(manifest, EngineKind.LLAMACPP, Quantize.Q4_0)
    figures = []
    for span, process, node in zip(spans, swarm.nodes, swarm.status()["nodes"], strict=True):
        memory = psutil.Process(process.popen.pid).memory_full_info()
        figures.append(
            {
                "layers": str(span),
                "rss": memory.rss,
                "pss": memory.pss,
                "uss": memory.uss,
                "weights": sizes.of(span),
                "huge_pages": huge_bytes(process.popen.pid),
                "probe_token_s": 1 / node["tokens_per_s"],
                "layout": node["layout"],
            }
        )
    return figures


def huge_bytes(pid: int) -> int:
    """The bytes of a process in pages of 2 MiB; 0 if the system does not provide it."""
    rollup = Path(f"/proc/{pid}/smaps_rollup")
    lines = rollup.read_text().splitlines() if rollup.exists() else []
    return sum(int(line.split()[1]) << 10 for line in lines if line.startswith("AnonHugePages"))


class Round(NamedTuple):
    """The seconds of a token, the least that reading its weights takes, and its bytes on the wire.

    unsplit_s: the seconds of a token of the unsplit engine; None if it was not measured.
    """

    token_s: float
    bound_s: float
    wire_bytes: float
    unsplit_s: float | None


def one_round(served: Served, options: argparse.Namespace) -> Round:
    """Measure a token as the difference between a long answer and a short one."""
    swarm, meter, manifest, engine = served.swarm, served.meter, served.manifest, served.engine
    weights = sum(tensor.nbytes for tensor in manifest.tensors if tensor.name != EMBEDDING)
    bound = weights / bandwidth(options.threads)
    alone = engine.answer([PROMPT[:1]], options.tokens + 1) if engine else None
    # Nodes make room for other programs, and these were some.
    swarm.wait_until(lambda status: all(node["threads"] == options.threads for node in status["nodes"]))
    totals, texts = [], []
    for tokens in (1, options.tokens + 1):
        before = meter.nbytes
        seconds, text = ask_whole(swarm.url, manifest.name, PROMPT[:1], tokens)
        totals.append((seconds, meter.nbytes - before))
        texts.append(text)
    if alone:
        check_answers(texts[1:], alone.texts, f"{options.nodes} nodes")
    (short_s, short_bytes), (long_s, long_bytes) = totals
    token_s, wire_bytes = (long_s - short_s) / options.tokens, (long_bytes - short_bytes) / options.tokens
    taken = Round(token_s, bound, wire_bytes, statistics.fmean(alone.step_s) if alone else None)
    print(
        f"{taken.token_s:.3f} s a token, bound {bound:.3f} s, ratio {taken.token_s / bound:.3f}; "
        f"{taken.wire_bytes:.0f} bytes on the wire, of which hidden rows {rows_bytes(options.nodes)}",
        flush=True,
    )
    return taken


def rows_bytes(nodes: int) -> int:
    """The bytes of the rows of a token that pass between so many nodes and the coordinator."""
    return 2 * (nodes - 1) * payload_size(1, HIDDEN, RowFormat.F32)


class Served(NamedTuple):
    """The made-up model, served by nodes with these spans. engine: the unsplit one; None if memory is short."""

    swarm: LocalSwarm
    meter: Meter
    manifest: Manifest
    spans: list[Span]
    engine: Engines | None


@contextmanager
def served(options: argparse.Namespace) -> Iterator[Served]:
    """Serve the made-up model from a folder that is removed at the end."""
    twice = holds_twice(options.layers)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="potluck-neox20b-")))
        os.environ["POTLUCK_CACHE"] = str(folder / "cache")
        path = folder / "neox20b.gguf"
        begin = time.perf_counter()
        write_model(path, options.layers)
        manifest = open_model(path)
        print(f"{path.stat().st_size / GB:.2f} GB of model made in {time.perf_counter() - begin:.0f} s", flush=True)
        begin = time.perf_counter()
        swarm = stack.enter_context(LocalSwarm(path, [], serve=["--local"]))
        meter = Meter(swarm.url)
        spans = start_nodes(swarm, meter.url, path, manifest, options)
        print(f"{options.nodes} nodes serve it after {time.perf_counter() - begin:.0f} s", flush=True)
        whole = [Span(0, manifest.layers - 1)]
        engine = stack.enter_context(Engines(path, whole, options.threads)) if twice else None
        if engine:
            engine.answer([PROMPT[:1]], 2)  # everything has run once
        yield Served(swarm, meter, manifest, spans, engine)


def speed_figures(rounds: list[Round], first_s: float, options: argparse.Namespace) -> list[Figure]:
    case = f"{options.layers} layers, {options.nodes} nodes"
    return [
        TOKEN.of(case, [one.token_s for one in rounds]),
        BOUND.of(case, [one.bound_s for one in rounds]),
        OVER_BOUND.of(case, [one.token_s / one.bound_s for one in rounds], below(1.25)),
        FIRST.of(case, first_s),
    ]


def unsplit_figures(rounds: list[Round], options: argparse.Namespace) -> dict[str, list[Figure]]:
    """The table of the speed beside the unsplit engine's; nothing where that did not run."""
    ratios = [one.unsplit_s / one.token_s for one in rounds if one.unsplit_s]
    case = f"{options.layers} layers, {options.nodes} nodes"
    return {"nodes and unsplit engine": [OVER_UNSPLIT.of(case, ratios, at_least(0.97))]} if ratios else {}


def main() -> None:
    parser = options_parser(__doc__)
    parser.add_argument("--layers", type=int, default=LAYERS)
    parser.add_argument("--nodes", type=int, default=4)
    parser.add_argument("--threads", type=int, default=physical_cores())
    parser.add_argument("--tokens", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=6)
    options = parser.parse_args()
    check_room(options.layers)
    report = Report("neox20b" if options.layers == LAYERS else f"neox20b-{options.layers}-layers", options)
    with served(options) as ready:
        rounds = [one_round(ready, options) for _ in range(options.rounds)]
        first_s, _ = ask_whole(ready.swarm.url, ready.manifest.name, PROMPT, 1)
        nodes = node_figures(ready.swarm, ready.spans, ready.manifest)
    report.add(
        {
            "GPT-NeoX-20B": speed_figures(rounds, first_s, options),
            **unsplit_figures(rounds, options),
            "node with layers": [
                measure.of(node["layers"], node[name] / GB)
                for node in nodes
                for name, measure in (("rss", RSS), ("weights", WEIGHTS))
            ],
        }
    )
    report.finish(prompt=len(PROMPT), rounds=[one._asdict() for one in rounds], nodes=nodes)


if __name__ == "__main__":
    main()
