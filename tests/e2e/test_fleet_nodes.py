"""Nodes of a fleet: they serve another coordinator when theirs is lost, or lacks fewer layers than another."""

from __future__ import annotations

from pathlib import Path

from kit.local_fleet import LocalFleet, Member
from kit.unsplit import Unsplit, check_greedy
from kit.waiting import eventually
from potluck.local import Process


def loads(node: Process) -> int:
    """How often the node has loaded layers."""
    return sum("Loading layers" in line for line in node.lines)


def check(member: Member, unsplit: Unsplit) -> None:
    with member.client() as client:
        check_greedy(client, "tiny", unsplit)


def test_node_of_a_lost_coordinator_serves_another(fleet: LocalFleet, tiny: Path, tiny_unsplit: Unsplit) -> None:
    one, two = fleet.add_all(tiny, 2)
    node = fleet.add_node(one, "anna")
    node.wait_for(f"Serving layers 0-5 of {one.url}.")
    fleet.wait_known()
    one.kill()
    node.wait_for(f"Serving layers 0-5 of {two.url}.")
    eventually(two.covered)
    assert loads(node) == 1
    check(two, tiny_unsplit)
    assert node.stop() == 0
    again = fleet.add_node(one, "anna")  # which the owner starts as before
    again.wait_for(f"Serving layers 0-5 of {two.url}.")
    eventually(two.covered)
    check(two, tiny_unsplit)


def test_guessing_node_of_a_lost_coordinator_guesses_for_another(fleet: LocalFleet, tiny: Path) -> None:
    one, two = fleet.add_all(tiny, 2)
    fleet.wait_known()
    node = fleet.add_node(one, "anna", "--guesser", str(tiny))
    node.wait_for(f"Guessing with tiny for tiny at {one.url}.")
    one.kill()
    node.wait_for(f"Guessing with tiny for tiny at {two.url}.")
    eventually(lambda: two.ask("/status").json()["guesses"]["models"] == ["tiny"])


def test_node_changes_to_a_coordinator_that_lacks_layers(fleet: LocalFleet, tiny: Path, tiny_unsplit: Unsplit) -> None:
    one, two = fleet.add_all(tiny, 2)
    nodes = [fleet.add_node(two, name) for name in ("anna", "ben")]
    eventually(lambda: sorted([*one.nodes(), *two.nodes()]) == ["anna", "ben"] and one.covered() and two.covered())
    assert [loads(node) for node in nodes] == [1, 1]
    [_] = [node for node in nodes if any("Another coordinator needs this node more" in line for line in node.lines)]
    check(one, tiny_unsplit)
    check(two, tiny_unsplit)
