from potluck.coordinator.swarm.suspects import Suspects


def test_a_node_is_blamed_when_another_attempt_succeeds() -> None:
    suspects = Suspects()
    suspects.failed(1, "n1")
    assert suspects.ran(2) is None
    assert suspects.ran(1) == "n1"
    assert suspects.ran(1) is None


def test_nobody_is_blamed_for_what_two_nodes_cannot_run() -> None:
    suspects = Suspects()
    suspects.failed(1, "n1")
    suspects.failed(1, "n2")
    suspects.failed(1, "n3")
    assert suspects.ran(1) is None
    suspects.failed(1, "n1")
    assert suspects.ran(1) == "n1"


def test_nobody_is_blamed_for_what_one_node_cannot_run_again_and_again() -> None:
    suspects = Suspects()
    for _ in range(5):
        suspects.failed(1, "n1")
    assert suspects.ran(1) is None
