from potluck.coordinator.topic import Topic


def test_all_who_listen_hear_of_each_value_in_their_order() -> None:
    topic, heard = Topic[int](), list[tuple[str, int]]()
    topic.tell(1)
    topic.listen(lambda value: heard.append(("one", value)))
    topic.listen(lambda value: heard.append(("two", value)))
    topic.tell(2)
    assert heard == [("one", 2), ("two", 2)]
