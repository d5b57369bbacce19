"""Nodes that lie, and honest ones that differ: who is caught, after how many tokens, and what it costs.

    python benchmarks/adversary.py [--runs 15] [--audits 5000] [--rounds 5] [--quick] [--smollm2]
        [--prompt 20] [--part attacks|honest|overhead]

Attacks: a tiny random model (with --smollm2 SmolLM2, at the default rate only) on three spans, each on two honest nodes
and one that lies (benchmarks/hostile_node.py), until every lie was told often enough; three streams of short answers
run meanwhile, and every one must be answered.
From the first step, and once the node has been honest for a while: then only the regular audits can see it.
Honest: SmolLM2 and the tiny model, every layer on three nodes, one of them with the plain weight layout, with f32 and
f16 rows, alone and eight at once, everything audited: nobody may be accused.
Overhead: SmolLM2, every layer twice: processor time a token with audits and without, in turns.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import httpx
import psutil
from gguf import GGMLQuantizationType

from calibrate import KINDS, requantized
from common import Prompts, ask_together, begin, print_aim, print_json, print_table, request
from hostile_node import LIES
from potluck.coordinator.text.opening import open_tokenizer
from potluck.local import LocalSwarm, demo_model
from potluck.models.sources import open_model
from potluck.types import Span, even_spans

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from tiny import write_tiny_gguf

PROMPT, ANSWER = 20, 40
STREAMS = 3
TRUSTED_STEPS = 160
"""For which a node is honest first: its first sessions, which are all audited, are over by then."""
MOST_LIES = 400
AIM_TOKENS = 200
RATES = (0.01, 0.02, 0.05)
DEFAULT_RATE = 0.02
ATTACKS = tuple(name for name in LIES if name != "none")


class HostileNode:
    """The process of one, and how each of its stays ended: (caught, lies told)."""

    def __init__(self, url: str, span: Span, model: Path, **options: object) -> None:
        script = str(Path(__file__).with_name("hostile_node.py"))
        flags = [text for name, value in options.items() for text in (f"--{name}", str(value)) if value is not True]
        flags += [f"--{name}" for name, value in options.items() if value is True]
        flags = [flag for flag in flags if flag != "True"]
        self.stays: list[tuple[bool, int]] = []
        self.ready = threading.Event()
        self._popen = subprocess.Popen(
            [sys.executable, script, url, str(span), "--model", str(model), *flags],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self._popen.stdout is not None
        for line in self._popen.stdout:
            word, _, count = line.partition(" ")
            if word in ("CAUGHT", "FREE"):
                self.stays.append((word == "CAUGHT", int(count)))
            elif word == "Serving":
                self.ready.set()

    def __enter__(self) -> HostileNode:
        return self

    def __exit__(self, *_: object) -> None:
        self._popen.terminate()
        self._popen.wait()


@dataclass
class Traffic:
    """Short answers, so many at a time, until it is left. errors: what broke off."""

    url: str
    model: str
    prompts: Prompts
    prompt: int = PROMPT
    answers: int = 0
    errors: list[str] = field(default_factory=list)
    _stop: bool = False

    async def _stream(self, client: httpx.AsyncClient, tokens: int) -> None:
        while not self._stop:
            [prompt] = self.prompts.take(1, self.prompt)
            body = {**request(self.model, prompt, tokens), "stream": False}
            reply = await client.post("/v1/completions", json=body)
            self.answers += 1
            if reply.status_code != 200:
                self.errors.append(reply.text)

    async def _run(self, streams: int, tokens: int) -> None:
        async with httpx.AsyncClient(base_url=self.url, timeout=120.0, trust_env=False) as client:
            await asyncio.gather(*(self._stream(client, tokens) for _ in range(streams)))

    @contextmanager
    def flowing(self, streams: int, tokens: int) -> Iterator[Traffic]:
        thread = threading.Thread(target=lambda: asyncio.run(self._run(streams, tokens)))
        thread.start()
        try:
            yield self
        finally:
            self._stop = True
            thread.join()


def wait_until(condition: Callable[[], bool], timeout: float) -> bool:
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


@contextmanager
def honest_nodes(model: Path, spans: Sequence[Span], copies: int, serve: Sequence[str]) -> Iterator[LocalSwarm]:
    """Every span so many times, on nodes with names, and so keys, of their own."""
    with LocalSwarm(model, [], serve=serve, join=["--model", str(model), "--threads", "1"]) as swarm:
        for span in spans:
            for copy in range(copies):
                swarm.add_node(str(span), "--name", f"{span} {'abc'[copy]}")
        yield swarm


# Attacks


def attack_groups() -> list[dict[int, str]]:
    """Which attacks to run side by side, by the span that lies: one a span. Only the last one has candidates."""
    last = ["forged candidates", "noise 1 %", "bias 0.1 %", "zeros"]
    others = [attack for attack in ATTACKS if attack != "forged candidates"]
    groups = [{0: one, 1: other} for one, other in zip(others[::2], others[1::2], strict=False)]
    if len(others) % 2:
        groups.append({0: others[-1]})
    for group, attack in zip(groups, last, strict=False):
        group[2] = attack
    return groups


def run_group(
    swarm: LocalSwarm, model: Path, group: dict[int, str], honest: int, runs: int, traffic: Traffic
) -> dict[tuple[str, int], list[tuple[bool, int]]]:
    spans = even_spans(open_model(model).layers, 3)
    with ExitStack() as stack:
        nodes = {
            (attack, place): stack.enter_context(
                HostileNode(
                    swarm.url, spans[place], model, attack=attack, honest=honest, most=MOST_LIES, name=f"liar{place}"
                )
            )
            for place, attack in group.items()
        }
        for node in nodes.values():
            node.ready.wait(60)
        with traffic.flowing(STREAMS, ANSWER):
            if not wait_until(lambda: all(len(node.stays) >= runs for node in nodes.values()), timeout=600):
                sys.exit(f"Not enough runs of {group}: {[len(node.stays) for node in nodes.values()]}.")
        return {key: node.stays[:] for key, node in nodes.items()}


def attack_part(model: Path, runs: dict[float, int], prompt: int) -> dict[str, Any]:
    rows, figures, everything = [], [], list[tuple[bool, int]]()
    vocabulary = open_tokenizer(model).vocabulary
    for rate, count in runs.items():
        spans = even_spans(open_model(model).layers, 3)
        serve = ["--local", "--audit", str(rate)]
        with honest_nodes(model, spans, 2, serve) as swarm:
            name = swarm.wait_covered()["model"]
            for honest in (0, TRUSTED_STEPS):
                for group in attack_groups():
                    traffic = Traffic(swarm.url, name, Prompts(vocabulary, seed=time.time_ns() % 2**32), prompt)
                    stays = run_group(swarm, model, group, honest, count, traffic)
                    if traffic.errors:
                        sys.exit(f"An answer broke off: {traffic.errors[0]}")
                    for (attack, place), ended in stays.items():
                        told = [lies for caught, lies in ended if caught]
                        within = sum(caught and lies <= AIM_TOKENS for caught, lies in ended)
                        if rate == DEFAULT_RATE:
                            everything += ended
                        when = "once trusted" if honest else "at once"
                        rows.append(
                            (
                                f"{attack}, span {place}",
                                when,
                                f"{rate:.0%}",
                                len(ended),
                                f"{len(told) / len(ended):.0%}",
                                f"{within / len(ended):.0%}",
                                f"{median(told):.0f}" if told else "-",
                                f"{max(told)}" if told else "-",
                            )
                        )
                        figures.append(
                            {
                                "attack": attack,
                                "place": place,
                                "honest": honest,
                                "rate": rate,
                                "runs": len(ended),
                                "caught": len(told) / len(ended),
                                "within": within / len(ended),
                                "tokens": told,
                            }
                        )
            wronged = [node for node in swarm.status()["nodes"] if node["state"] == "quarantined"]
            wronged = [node for node in wronged if not node["name"].startswith("liar")]
            if wronged:
                sys.exit(f"An honest node was convicted: {wronged}")
    print_table(("attack", "lies", "rate", "runs", "caught", "in 200", "median", "most"), rows)
    share = sum(caught and lies <= AIM_TOKENS for caught, lies in everything) / max(1, len(everything))
    aim = print_aim(f"caught within {AIM_TOKENS} tokens at the default rate", share, at_least=0.99)
    return {"attacks": figures, "within_aim": aim, "runs_at_default": len(everything)}


# Honest nodes that differ


def honest_part(models: Sequence[tuple[Path, int]]) -> dict[str, Any]:
    """(model, audits) each: half of them over f32 rows, half over f16."""
    rows, audits, accused = [], 0, 0
    for model, wanted in models:
        for form in ("f32", "f16"):
            for streams in (1, 8):
                passed, failed, undecided = honest_swarm(model, form, streams, wanted // 4)
                audits, accused = audits + passed + failed + undecided, accused + failed + undecided
                rows.append((model.stem[:24], form, streams, passed, failed, undecided))
    print_table(("model", "rows", "at once", "passed", "failed", "undecided"), rows)
    aim = print_aim("false accusations", accused, below=1)
    return {"audits": audits, "accusations": aim}


def honest_swarm(model: Path, form: str, streams: int, wanted: int) -> tuple[int, int, int]:
    manifest = open_model(model)
    spans = even_spans(manifest.layers, 3)
    serve = ["--local", "--audit", "1", "--rows", form]
    with ExitStack() as stack:
        swarm = stack.enter_context(honest_nodes(model, spans, 1, serve))
        for span in spans:
            for copy in ("x", "y") if streams == 1 else ("x",):
                options = {"attack": "none", "plain": True, "name": f"plain{copy}"}
                node = stack.enter_context(HostileNode(swarm.url, span, model, **options))
                node.ready.wait(60)
        name = swarm.wait_until(lambda status: min(status["served"]) >= 2)["model"]
        traffic = Traffic(swarm.url, name, Prompts(open_tokenizer(model).vocabulary, seed=len(form) + streams))

        def audits() -> tuple[int, int, int]:
            status = swarm.status()
            return status["audits_passed"], status["audits_failed"], status["audits_undecided"]

        with traffic.flowing(streams, 8):
            if not wait_until(lambda: sum(audits()) >= wanted, timeout=900):
                sys.exit(f"Only {audits()} audits.")
        if traffic.errors:
            sys.exit(f"An answer broke off: {traffic.errors[0]}")
        return audits()


# Overhead


def cpu_s(swarm: LocalSwarm) -> float:
    """Processor seconds that coordinator and nodes have taken so far."""
    processes = [psutil.Process(process.popen.pid) for process in (swarm.coordinator, *swarm.nodes)]
    return sum(process.cpu_times().user + process.cpu_times().system for process in processes)


def overhead_part(rounds: int, streams: int) -> dict[str, Any]:
    """Two swarms, asked in turns. Processor seconds a token are compared: of what else runs here they tell little.

    They are what limits the throughput of a swarm whose nodes have enough to do.
    """
    model = demo_model()
    spans = even_spans(open_model(model).layers, 3)
    prompts = Prompts(open_tokenizer(model).vocabulary)
    rates = ("0", str(DEFAULT_RATE))
    spent: dict[str, list[float]] = {rate: [] for rate in rates}
    with ExitStack() as stack:
        swarms = {
            rate: stack.enter_context(honest_nodes(model, spans, 2, ["--local", "--audit", rate])) for rate in rates
        }
        names = {rate: swarm.wait_covered()["model"] for rate, swarm in swarms.items()}
        for rate, swarm in swarms.items():  # newcomers' sessions, which are all audited
            for _ in range(3):
                ask_together(swarm.url, names[rate], prompts.take(8, PROMPT), ANSWER)
        before = swarms[str(DEFAULT_RATE)].status()["audits_passed"]
        for _ in range(rounds):
            for rate, swarm in swarms.items():
                begun = cpu_s(swarm)
                for _ in range(4):
                    ask_together(swarm.url, names[rate], prompts.take(streams, PROMPT), ANSWER)
                spent[rate].append((cpu_s(swarm) - begun) / (4 * streams * ANSWER))
        audits = swarms[str(DEFAULT_RATE)].status()["audits_passed"] - before
    without, with_audits = (sum(spent[rate]) / rounds for rate in rates)
    print(f"{streams} at once: {audits} audits; {without:.4f} s a token without, {with_audits:.4f} with", flush=True)
    aim = print_aim(f"overhead at {DEFAULT_RATE:.0%}, {streams} at once", with_audits / without - 1, below=0.04)
    return {"streams": streams, "cpu_s_a_token": spent, "overhead": aim, "audits": audits}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=15, help="of each attack at the default rate")
    parser.add_argument("--audits", type=int, default=5000)
    parser.add_argument("--rounds", type=int, default=5, help="for the overhead")
    parser.add_argument("--quick", action="store_true", help="few of everything")
    parser.add_argument("--smollm2", action="store_true", help="attack SmolLM2 in place of a tiny model: much slower")
    parser.add_argument("--prompt", type=int, default=PROMPT, help="tokens, for the attacks")
    parser.add_argument("--part", choices=("attacks", "honest", "overhead"))
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.runs, arguments.audits, arguments.rounds = 3, 200, 1
    begin()
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        os.environ["POTLUCK_DATA"] = folder  # whom a coordinator caught it remembers
        tiny = write_tiny_gguf(
            Path(folder) / "tiny.gguf", tokenizer="bpe", context=4096, dtype=GGMLQuantizationType.Q8_0
        )
        if arguments.part in (None, "attacks"):
            runs = {rate: arguments.runs if rate == DEFAULT_RATE else max(2, arguments.runs // 3) for rate in RATES}
            model = demo_model() if arguments.smollm2 else tiny
            few = arguments.quick or arguments.smollm2 or arguments.prompt != PROMPT
            figures |= attack_part(model, {DEFAULT_RATE: arguments.runs} if few else runs, arguments.prompt)
        if arguments.part in (None, "honest"):
            # Q4_0: of the usual weights the ones with most layouts.
            small = write_tiny_gguf(
                Path(folder) / "tiny-q4_0.gguf", tokenizer="bpe", context=4096, dtype=GGMLQuantizationType.Q4_0
            )
            real = requantized(demo_model(), KINDS["Q4_0"], Path(folder))
            figures["honest"] = honest_part([(small, arguments.audits * 4 // 5), (real, arguments.audits // 5)])
        if arguments.part in (None, "overhead"):
            figures["overhead"] = [overhead_part(arguments.rounds, streams) for streams in (1, 4)]
    print_json("adversary", **figures)


if __name__ == "__main__":
    main()
