"""Messages are put together from items, however many there are."""

from __future__ import annotations

import time

from potluck.coordinator.http.doors.history import History


def test_what_one_side_says_in_turn_is_one_message() -> None:
    history = History()
    for role, text in (("system", "a"), ("developer", "b"), ("user", ""), ("user", "c"), ("user", ""), ("user", "d")):
        history.say(role, text)
    assert history.messages == [{"role": "system", "content": "a\n\nb"}, {"role": "user", "content": "c\n\nd"}]


def test_a_history_goes_on_without_changing_the_one_before() -> None:
    before = History()
    before.say("assistant", "a")
    before.call("x", "f", "{}")
    earlier, after = before.messages, History()
    after.extend(earlier)
    after.say("assistant", "b")
    after.call("y", "g", "{}")
    after.result("x", "c")
    assert earlier == before.messages
    assert [len(message.get("tool_calls", ())) for message in (*earlier, *after.messages)] == [1, 2, 0]
    assert after.messages[0]["content"] == "a\n\nb"


def cpu_s(items: int) -> float:
    """The processor's time for so many items of one side."""
    history, begun = History(), time.thread_time()
    for _ in range(items):
        history.say("user", "0123456789")
    assert len(history.messages[0]["content"]) == items * len("0123456789\n\n") - 2
    return time.thread_time() - begun


def test_eight_times_as_many_items_take_about_eight_times_as_long() -> None:
    few, many = (min(cpu_s(items) for _ in range(3)) for items in (10_000, 80_000))
    assert many < 24 * few  # 64 times, if the text of each were joined to all before it
