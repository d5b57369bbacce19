"""A node with a graphics card: a real driver, in software, of which the node may use some MiB."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import numpy.typing as npt
import pytest

from kit.processes import LOCAL, ONE_THREAD, python
from kit.software_card import environment, software_card
from kit.tiny_architectures import LAYERS, write_case
from kit.unsplit import Unsplit
from potluck.local import HANG_S, LocalSwarm
from potluck.types import Offload, Span

pytestmark = pytest.mark.skipif(software_card() is None, reason="there is no software driver for Vulkan")

DRIVER = next(Path("/usr/share/vulkan/icd.d").glob("lvp_icd.*.json"), Path())
TEXT = "The capital of France is Paris. The capital of Italy is Rome. The capital of Germany is"
TOKENS = 32
WHOLE = ["--memory", "2G", *ONE_THREAD]
MEASURED = 1.02
"""The largest difference of a logit that was measured with the whole model on the card, for logits from -25 to 20."""

EXPERTS_MEASURED = 0.05

LOGITS = """
import sys
import numpy as np
from potluck.engine.base import Segment
from potluck.engine.probe import Trial
from potluck.types import Attention, Capacity, Offload, Span
layers, experts, head = map(int, sys.argv[2].split())
offload, tokens = Offload(layers, experts, bool(head)), np.array(sys.argv[3].split(), np.int32)
all_layers = int(sys.argv[4])
trial = Trial(sys.argv[1], Span(0, all_layers - 1), all_layers, Attention.EXACT, 1, True, offload)
engine = trial.load(Capacity(2, 256, 64))
[logits] = engine.forward([Segment(1, 0, tokens, all_layers - 1, 1)])
engine.restore(1, engine.export(1))
[after] = engine.forward([Segment(1, len(tokens), tokens[-1:], all_layers - 1, 1)])
print(repr(engine.build))
print(*logits[-1].tolist())
print(*after[-1].tolist())
"""


def swarm(model: Path, *join: str) -> LocalSwarm:
    return LocalSwarm(model, [Span(0, 29)], serve=LOCAL, join=[*WHOLE, *join], **environment())


def answer(running: LocalSwarm) -> str:
    asked: dict[str, Any] = {"model": "potluck", "prompt": TEXT, "max_tokens": TOKENS, "temperature": 0}
    asked["model"] = httpx.get(f"{running.url}/v1/models", timeout=HANG_S).json()["data"][0]["id"]
    reply = httpx.post(f"{running.url}/v1/completions", json=asked, timeout=HANG_S).json()
    return str(reply["choices"][0]["text"])


def test_a_node_with_a_small_card_gives_the_tokens_of_a_cpu(smollm2: Path, unsplit: Unsplit) -> None:
    with swarm(smollm2, "--gpu-memory", "300M") as running:
        told = running.nodes[0].wait_for("of your graphics card.")
        [taken] = re.findall(r"and (\d+) of the 300 MiB of your graphics card", told)
        assert 128 < int(taken) <= 300
        [node] = running.wait_covered()["nodes"]
        [number] = re.findall(r"^(?:optimised|plain), (\d+) layers and the head on a card$", node["layout"])
        assert 0 < int(number) < 30
        assert (node["gpu_memory"], node["twin"]) == (300 << 20, "")
        assert answer(running) == unsplit.text(unsplit.encode(TEXT), TOKENS)


def test_a_card_that_is_lost_before_the_layers_are_loaded_leaves_a_node_without_one(
    smollm2: Path, tmp_path: Path
) -> None:
    driver = Path(shutil.copy(DRIVER, tmp_path))
    with LocalSwarm(smollm2, [], serve=LOCAL, join=[*WHOLE, "--gpu-memory", "300M"], **environment()) as running:
        port = running.url.rpartition(":")[2]
        running.coordinator.stop()
        node = running.add_node("0-29", VK_DRIVER_FILES=str(driver), VK_ICD_FILENAMES=str(driver))
        node.wait_for("There is no connection")
        driver.unlink()
        with LocalSwarm(smollm2, [], serve=[*LOCAL, "--port", port], **environment()) as again:
            node.wait_for("The graphics card cannot take")
            [served] = again.wait_until(lambda status: status["covered"])["nodes"]
            assert served["layout"] in ("optimised", "plain")
            assert served["twin"]


def test_without_a_card_the_same_library_computes_the_bits_of_a_cpu(smollm2: Path) -> None:
    """A card that is there, but not used, changes no bit: the node is a twin of those without one."""
    with swarm(smollm2, "--no-gpu") as running:
        [without] = running.wait_covered()["nodes"]
        assert (without["gpu_memory"], bool(without["twin"])) == (0, True)
        running.nodes[0].stop()
        # Less than what planning keeps for work buffers is no card.
        running.add_node("0-29", "--gpu-memory", "1M", "--name", "other")
        running.wait_until(lambda status: [node["name"] for node in status["nodes"]] == ["other"])
        [other] = running.wait_until(lambda status: status["covered"])["nodes"]
    assert other["twin"] == without["twin"]


@pytest.mark.parametrize(
    "offload", [Offload(30, 30, True), Offload(4, 4), Offload(0, 0, True)], ids=["all", "layers", "head"]
)
def test_logits_are_close_to_those_of_a_cpu_wherever_the_parts_lie(
    offload: Offload, smollm2: Path, unsplit: Unsplit
) -> None:
    cpu, card = (logits(smollm2, part, unsplit.encode(TEXT), 30) for part in (Offload(), offload))
    assert (cpu.argmax(axis=1) == card.argmax(axis=1)).all()
    assert np.abs(cpu - card).max() < 2 * MEASURED


@pytest.mark.parametrize("offload", [Offload(8, 0), Offload(5, 0, True)], ids=["all", "some"])
def test_layers_whose_experts_stay_behind_give_the_same_logits(offload: Offload, tmp_path: Path) -> None:
    """Experts on the card are not tried: Mesa 22.3's software driver crashes on one row of them."""
    model = write_case(tmp_path / "experts.gguf", "olmoe")
    cpu, card = (logits(model, part, list(range(1, 30)), LAYERS) for part in (Offload(), offload))
    assert np.abs(cpu - card).max() < EXPERTS_MEASURED * np.abs(cpu).max()


def logits(model: Path, offload: Offload, tokens: list[int], layers: int) -> npt.NDArray[np.float64]:
    """The logits of the last token and of one more `[2, V]`, with this part of a model on the card."""
    counts, told = f"{offload.layers} {offload.experts} {int(offload.head)}", " ".join(map(str, tokens))
    out = python("-c", LOGITS, model, counts, told, layers, env=os.environ | environment()).splitlines()
    build, *rows = out[-3:]
    assert (build == "''") == bool(offload)
    return np.array([row.split() for row in rows], np.float64)
