from potluck.coordinator.gateway.tickets import Tickets


def test_a_ticket_is_good_as_long_as_its_node_is_connected() -> None:
    tickets = Tickets()
    anna, ben = tickets.issue("n1", "A"), tickets.issue("n2", "B")
    assert tickets.issue("n1", "A") == anna != ben
    assert tickets.model_of(anna) == "A"
    tickets.cancel("n1")
    tickets.cancel("n1")
    assert tickets.model_of(anna) is None
    assert tickets.model_of(ben) == "B"
    assert tickets.model_of("") is tickets.model_of("n2") is None
    assert tickets.issue("n1", "A") != anna


def test_a_node_that_serves_another_model_now_keeps_its_ticket_which_opens_that_one() -> None:
    tickets = Tickets()
    anna = tickets.issue("n1", "A")
    assert tickets.issue("n1", "B") == anna
    assert tickets.model_of(anna) == "B"
