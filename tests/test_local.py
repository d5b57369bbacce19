from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from potluck import local
from potluck.local import LocalSwarm


class Told(LocalSwarm):
    """A swarm with this number of nodes, of which these answers are told one after the other."""

    def __init__(self, nodes: int, *answers: Any) -> None:
        running = SimpleNamespace(popen=SimpleNamespace(poll=lambda: None))
        self.nodes = [running] * nodes  # type: ignore[list-item]
        self._processes = []
        self._answers = iter(answers)

    def status(self) -> dict[str, Any]:
        answer: dict[str, Any] = next(self._answers)
        return answer


def model(*states: str, covered: bool = True) -> dict[str, Any]:
    return {"covered": covered, "nodes": [{"state": state} for state in states]}


ANSWERS = [
    [model("loading", covered=False), model("ready", "ready")],
    [model("loading"), model("ready", "ready")],
    [model("ready", covered=False), model("ready", "ready")],
]


@pytest.mark.parametrize("answer", ANSWERS)
def test_several_models_are_covered_when_all_are_and_all_nodes_serve(
    monkeypatch: pytest.MonkeyPatch, answer: list[dict[str, Any]]
) -> None:
    monkeypatch.setattr(local, "_POLL_S", 0)
    done = {"models": [model("ready"), model("ready", "ready")]}
    assert Told(3, {"models": answer}, done).wait_covered() == done


@pytest.mark.parametrize("answer", [model("ready"), model("ready", "loading"), model("ready", "ready", covered=False)])
def test_one_model_is_covered_when_all_nodes_serve(monkeypatch: pytest.MonkeyPatch, answer: dict[str, Any]) -> None:
    monkeypatch.setattr(local, "_POLL_S", 0)
    done = model("ready", "ready")
    assert Told(2, answer, done).wait_covered() == done
