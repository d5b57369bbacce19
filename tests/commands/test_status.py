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


NO_FLEET = {"key": "", "fault": "", "coordinators": []}


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """What the command prints where a coordinator answers so."""

    def printed(answer: Any, fleet: Any = NO_FLEET, **options: Any) -> str:
        monkeypatch.setattr(Client, "_ask", lambda _, __, path, **___: fleet if path == "/fleet" else answer)
        status("http://127.0.0.1:8470", **options)
        return capsys.readouterr().out

    return printed


def test_the_board_of_one_model_is_shown_alone(shown: Any) -> None:
    assert shown(told("toy", 4)).splitlines() == board("toy", 4)


def test_each_of_several_models_has_a_board_under_its_name(shown: Any) -> None:
    printed = shown({"models": [told("toy", 4), told("[b]ig", 8)]})
    assert printed.splitlines() == ["toy", *board("toy", 4), "", "[b]ig", *board("[b]ig", 8), ""]


def test_the_coordinators_of_a_fleet_are_listed_below(shown: Any) -> None:
    def model(name: str, *missing: str) -> dict[str, Any]:
        return {"names": [name, "other"], "covered": not missing, "missing": missing, "waiting": 3, "streams": 2}

    def member(url: str, *models: Any, here: bool = False) -> dict[str, Any]:
        return {"url": url, "key": "k", "version": "0.1", "here": here, "models": models}

    members = [
        member("http://a", model("toy"), model("[b]ig", "0-2", "7"), here=True),
        member("http://b", model("toy")),
    ]
    printed = shown(told("toy", 4), {"key": "k", "fault": "it is gone", "coordinators": members})
    assert [line.split() for line in printed.splitlines()[3:]] == [
        ["coordinator", "version", "model", "layers", "waiting", "answers"],
        ["http://a", "(this", "one)", "0.1", "toy", "covered", "3", "2"],
        ["[b]ig", "0-2,", "7", "missing", "3", "2"],
        ["http://b", "0.1", "toy", "covered", "3", "2"],
        ["This", "coordinator", "hears", "nothing", "of", "the", "others:", "it", "is", "gone."],
    ]


@pytest.mark.parametrize("answer", [told("toy", 4), {"models": [told("toy", 4), told("big", 8)]}])
def test_programs_get_what_the_coordinator_said(shown: Any, answer: Any) -> None:
    assert json.loads(shown(answer, as_json=True)) == answer
