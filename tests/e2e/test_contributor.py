"""What the owner of a machine has in hand while it serves."""

from __future__ import annotations

import time

from kit.processes import LOCAL, ONE_THREAD, complaint, potluck
from kit.unsplit import check_greedy
from potluck.local import LocalSwarm


def state(status: dict, name: str) -> tuple[str, str]:
    return next((node["state"], node["reason"]) for node in status["nodes"] if node["name"] == name)


def test_a_node_pauses_and_goes_on_with_its_layers(tiny, tiny_unsplit, client_of):
    with LocalSwarm(tiny, [], serve=LOCAL) as swarm:
        paused = swarm.add_node("0-5", "--name", "lent", *ONE_THREAD)
        swarm.add_node("0-5", "--name", "other", *ONE_THREAD)
        swarm.wait_until(lambda status: status["served"] == [2] * 6)
        told = potluck("node", "pause", "lent")
        assert (told.returncode, told.stdout) == (0, "lent pauses.\n"), told.stderr
        status = swarm.wait_until(lambda status: state(status, "lent")[0] == "paused")
        assert state(status, "lent") == ("paused", "its owner paused it")
        assert status["served"] == [1] * 6
        assert "lent is paused: its owner paused it.\n" in potluck("status", swarm.url).stdout
        check_greedy(client_of(swarm), "tiny", tiny_unsplit)
        assert potluck("node", "resume", "lent").stdout == "lent continues.\n"
        swarm.wait_until(lambda status: status["served"] == [2] * 6)
        assert sum("Loading layers" in line for line in paused.lines) == 1
        assert potluck("node", "leave", "lent").stdout == "lent leaves.\n"
        assert paused.wait() == 0


def test_outside_its_hours_a_node_waits(tiny):
    hour = time.localtime().tm_hour
    with LocalSwarm(tiny, [], serve=LOCAL) as swarm:
        node = swarm.add_node("0-5", "--hours", f"{(hour + 2) % 24}-{(hour + 3) % 24}", *ONE_THREAD)
        node.wait_for("Waiting: it is outside its hours.")
        assert swarm.status()["nodes"] == []
        assert node.stop() == 0


def test_what_an_owner_cannot_ask_for():
    assert complaint("node", "pause", "nobody") == "No node named 'nobody' runs here."
    assert complaint("join", "http://127.0.0.1:1", "--hours", "night") == (
        "'night' is not a time span: write it as 22-07 or 22:30-6:15."
    )


def test_a_node_with_a_slow_upload_answers_as_exactly(tiny, tiny_unsplit, client_of):
    with LocalSwarm(tiny, [], serve=LOCAL) as swarm:
        for span in ("0-2", "3-5"):
            swarm.add_node(span, "--upload", "20", *ONE_THREAD)
        swarm.wait_covered()
        check_greedy(client_of(swarm), "tiny", tiny_unsplit)
