"""`potluck status`, of one model and of several."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from potluck.client import Client
from potluck.commands.status import status
from potluck.coordinator.audits.audits import no_audits
from potluck.coordinator.swarm.swarm import Swarm
from potluck.coordinator.watching.status import swarm_status
from potluck.planning.cost import Footprint


def told(model: str, layers: int) -> Any:
    swarm = Swarm("d", Footprint((1,) * layers, 0, 0))
    return json.loads(msgspec.json.encode(swarm_status(swarm, model, "d", 64, no_audits(), 0)))


def board(model: str, layers: int) -> list[str]:
    return [
        f"Model {model} (d): {layers} layers, context 64.",
        f"Nodes per layer: {' '.join('0' * layers)}",
        f"No node serves layers 0-{layers - 1}.",
    ]


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """What the command prints where a coordinator answers so."""

    def printed(answer: Any, **options: Any) -> str:
        monkeypatch.setattr(Client, "_ask", lambda *_, **__: answer)
        status("http://127.0.0.1:8470", **options)
        return capsys.readouterr().out

    return printed


def test_the_board_of_one_model_is_shown_alone(shown: Any) -> None:
    assert shown(told("toy", 4)).splitlines() == board("toy", 4)


def test_each_of_several_models_has_a_board_under_its_name(shown: Any) -> None:
    printed = shown({"models": [told("toy", 4), told("[b]ig", 8)]})
    assert printed.splitlines() == ["toy", *board("toy", 4), "", "[b]ig", *board("[b]ig", 8), ""]


@pytest.mark.parametrize("answer", [told("toy", 4), {"models": [told("toy", 4), told("big", 8)]}])
def test_programs_get_what_the_coordinator_said(shown: Any, answer: Any) -> None:
    assert json.loads(shown(answer, as_json=True)) == answer
