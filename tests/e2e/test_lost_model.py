"""The model's file is lost while the coordinator serves: both owners learn of it, and it goes on when it is back."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from kit.processes import LOCAL, potluck
from potluck.local import HANG_S, LocalSwarm

MISSING = "The coordinator's file tiny.gguf is missing."
OTHER = "The coordinator's file tiny.gguf is not the one that it was started with."


@pytest.mark.parametrize(("cut", "sentence"), [(0, MISSING), (5000, OTHER)], ids=["removed", "cut"])
def test_a_node_waits_until_the_model_is_back(tiny: Path, tmp_path: Path, cut: int, sentence: str) -> None:
    model = tmp_path / "tiny.gguf"
    model.write_bytes(tiny.read_bytes())
    with LocalSwarm(model, [], serve=LOCAL) as swarm:
        assert swarm.status()["fault"] == ""
        model.unlink()
        if cut:
            model.write_bytes(tiny.read_bytes()[:cut])
        node = swarm.add_node(POTLUCK_CACHE=str(tmp_path / "empty"))
        assert node.wait_for("is missing" if not cut else "is not the one") == f"{sentence} Waiting for it."
        told = swarm.coordinator.wait_for("Nodes wait until it is restored")
        assert told == f"{sentence} Nodes wait until it is restored, in {tmp_path}."
        assert swarm.wait_until(lambda status: status["fault"] == sentence)["nodes"]
        assert sentence in potluck("status", swarm.url).stdout
        refused = httpx.get(f"{swarm.url}/files/tiny.gguf", timeout=HANG_S)
        assert (refused.status_code, refused.json()["error"]["message"]) == (503, sentence)
        assert "Retry-After" in refused.headers
        model.write_bytes(tiny.read_bytes())
        swarm.wait_covered()
        assert node.wait_for("The download goes on.")
        assert swarm.status()["fault"] == ""
        assert not any("Traceback" in line for line in swarm.coordinator.lines + node.lines)


def test_a_node_that_waits_for_the_model_can_be_stopped(tiny: Path, tmp_path: Path) -> None:
    model = tmp_path / "tiny.gguf"
    model.write_bytes(tiny.read_bytes())
    with LocalSwarm(model, [], serve=LOCAL) as swarm:
        model.unlink()
        node = swarm.add_node(POTLUCK_CACHE=str(tmp_path / "empty"))
        node.wait_for("Waiting for it.")
        assert node.stop() == 0
        assert node.lines[-1] == "Stopped."
