from potluck.coordinator.gateway.tickets import Tickets


def test_a_ticket_is_good_as_long_as_its_node_is_connected() -> None:
    tickets = Tickets()
    anna, ben = tickets.issue("n1"), tickets.issue("n2")
    assert tickets.issue("n1") == anna != ben
    assert tickets.holds(anna)
    tickets.cancel("n1")
    tickets.cancel("n1")
    assert not tickets.holds(anna)
    assert tickets.holds(ben)
    assert not tickets.holds("")
    assert not tickets.holds("n2")
    assert tickets.issue("n1") != anna
