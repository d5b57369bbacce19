from potluck.coordinator.swarm.suspects import Suspects


def test_a_node_is_blamed_when_another_attempt_gets_further() -> None:
    suspects = Suspects()
    suspects.failed(1, "n1", 128)
    assert suspects.ran(2, 128) is None
    assert suspects.ran(1, 64) is None
    assert suspects.ran(1, 128) == "n1"
    assert suspects.ran(1, 129) is None


def test_nobody_is_blamed_for_what_two_nodes_cannot_run() -> None:
    suspects = Suspects()
    suspects.failed(1, "n1", 128)
    assert suspects.ran(1, 64) is None
    suspects.failed(1, "n2", 128)
    suspects.failed(1, "n3", 128)
    assert suspects.ran(1, 128) is None
    suspects.failed(1, "n1", 130)
    assert suspects.ran(1, 130) == "n1"


def test_nobody_is_blamed_for_what_one_node_cannot_run_again_and_again() -> None:
    suspects = Suspects()
    for _ in range(5):
        suspects.failed(1, "n1", 1)
    assert suspects.ran(1, 1) is None
