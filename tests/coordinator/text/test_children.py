"""Children that read texts: what they say is what the plain encoder says, and nothing ends but themselves."""

import gc
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from kit.tiny_gguf import write_tiny_gguf
from kit.waiting import eventually
from potluck.coordinator.text import children as module
from potluck.coordinator.text.children import ChildEncoder
from potluck.coordinator.text.encoder import PlainEncoder, TooManyTokens
from potluck.coordinator.text.opening import open_tokenizer
from potluck.coordinator.text.template import ChatTemplate
from potluck.errors import ModelError, RequestError, Unavailable
from potluck.local import HANG_S, demo_model

HELLO = [{"role": "user", "content": "Hello, the king of Köln 🥘"}]
MOST = 1000

BOMBS = {
    "loop": "{% for a in range(99999) %}{% for b in range(99999) %}{% set c = a %}{% endfor %}{% endfor %}",
    "power": "{{ (messages | length + 6) ** 99999999 }}",
    "memory": "{{ messages[0].role * 10 ** 11 }}",
    "constant": "{{ 'a' * 10 ** 11 }}",
    "center": "{{ messages[0].role | center(10 ** 11) }}",
    "joins": "{% set a = namespace(t=messages[0].content) %}"
    "{% for i in range(60) %}{% set a.t = [a.t, a.t] | join('x') %}{% endfor %}{{ a.t }}",
    "lists": "{% set a = namespace(t=[1]) %}{% for i in range(60) %}{% set a.t = a.t + a.t %}{% endfor %}{{ a.t }}",
    "format": "{{ '%0999999999999d' | format(messages | length) }}",
}
"""Templates that never end, or take all memory, once they have a chat to render."""

DEEP = {
    "if": "{% if a %}" * 10_000 + "{% endif %}" * 10_000,
    "parentheses": "{{ " + "(" * 100_000 + "1" + ")" * 100_000 + " }}",
    "lists": "{{ " + "[" * 5000 + "]" * 5000 + " }}",
    "not": "{{ " + "not " * 100_000 + "1 }}",
    "plus": "{{ a" + " + a" * 100_000 + " }}",
    "for": "{% for a in b %}" * 300 + "{% endfor %}" * 300,
    "constant power": "{{ 7 ** 99999999 }}",
    "long": "{# " + "a" * (1 << 20) + " #}",
}
"""Templates that cannot be compiled, or only after a very long time."""


def model(path: Path, template: str) -> Path:
    return write_tiny_gguf(path / "tiny.gguf", layers=1, tokenizer="bpe", template=template)


@pytest.fixture(scope="module")
def encoder() -> Iterator[ChildEncoder]:
    made = ChildEncoder(demo_model(), 2)
    yield made
    made.close()


@pytest.fixture(scope="module")
def plain() -> PlainEncoder:
    tokenizer = open_tokenizer(demo_model())
    return PlainEncoder(tokenizer, ChatTemplate(tokenizer.chat_template, tokenizer.bos, tokenizer.eos))


def test_they_say_what_the_plain_encoder_says(encoder: ChildEncoder, plain: PlainEncoder) -> None:
    assert (encoder.calls, encoder.stops) == (plain.calls, plain.stops)
    assert encoder.of_chat(HELLO, {}, most=MOST) == plain.of_chat(HELLO, {}, most=MOST)
    options = {"tools": [{"type": "function", "function": {"name": "f", "parameters": {"maximum": 10**30}}}]}
    assert encoder.of_chat(HELLO, options, most=MOST) == plain.of_chat(HELLO, options, most=MOST)
    for text in ("", "Hello 🥘", "<|im_start|>user", "\0"):
        assert encoder.of_text(text, most=MOST) == plain.of_text(text, most=MOST)
        for most in (3, MOST):
            assert encoder.of_prediction(text, most=most) == plain.of_prediction(text, most=most)
        for pieces in (False, True):
            assert encoder.shown(text, bos=True, pieces=pieces) == plain.shown(text, bos=True, pieces=pieces)
    tokens = encoder.of_text("Grüße 🥘", most=MOST)
    assert encoder.text_of(tokens) == plain.text_of(tokens) == "Grüße 🥘"


def test_a_prediction_is_plain_text_and_is_cut(encoder: ChildEncoder, plain: PlainEncoder) -> None:
    text = "<|im_start|>The capital of France"
    tokens = encoder.of_prediction(text, most=MOST)
    assert plain.text_of(tokens) == text
    assert len(tokens) > len(encoder.of_text(text, most=MOST))
    assert encoder.of_prediction(text, most=4) == tokens[:4]


def test_they_refuse_what_the_plain_encoder_refuses(encoder: ChildEncoder, plain: PlainEncoder) -> None:
    wrong: list[list[dict[str, Any]]] = [[{"role": "king"}], [{"role": "user", "content": 3}]]
    for messages in wrong:
        refusals = []
        for one in (encoder, plain):
            with pytest.raises(RequestError) as caught:
                one.of_chat(messages, {}, most=MOST)
            refusals.append((str(caught.value), caught.value.param, caught.value.status))
        assert refusals[0] == refusals[1]
    for one in (encoder, plain):
        with pytest.raises(TooManyTokens) as many:
            one.of_text("hello " * 20, most=19)
        assert many.value.count == len(plain.of_text("hello " * 20, most=MOST))
        with pytest.raises(RequestError, match="half a character"):
            one.of_text("\ud83e", most=MOST)
        with pytest.raises(RequestError, match="longer than") as long:
            one.text_of([1] * 600_000)
        assert long.value.status == 413


def test_several_threads_may_ask_at_once(encoder: ChildEncoder, plain: PlainEncoder) -> None:
    texts = [f"text {number}" for number in range(40)]
    found: dict[str, list[int]] = {}

    def ask(some: list[str]) -> None:
        for text in some:
            found[text] = encoder.of_text(text, most=MOST)

    threads = [threading.Thread(target=ask, args=(texts[start::4],)) for start in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(HANG_S)
    assert found == {text: plain.of_text(text, most=MOST) for text in texts}


@pytest.mark.skipif(sys.platform == "win32", reason="Only the clock bounds a child there.")
@pytest.mark.parametrize("name", BOMBS)
def test_a_template_that_never_ends_is_refused_in_a_sentence(tmp_path: Path, name: str) -> None:
    """Within its bound of processor time, which the kernel keeps, and the child after it serves on."""
    encoder = ChildEncoder(model(tmp_path, BOMBS[name]), 1)
    try:
        for _ in range(2):
            with pytest.raises(RequestError, match=r"^The model's chat template [^\n]+\.$") as caught:
                encoder.of_chat(HELLO, {}, most=MOST)
            assert (caught.value.status, caught.value.param) == (400, "messages")
            assert encoder.of_text("the", most=MOST) != []
    finally:
        encoder.close()


@pytest.mark.skipif(sys.platform == "win32", reason="Only the clock bounds a child there.")
@pytest.mark.parametrize("name", DEEP)
def test_a_template_that_cannot_be_compiled_ends_the_start_in_a_sentence(tmp_path: Path, name: str) -> None:
    with pytest.raises(ModelError, match=r"^The model's (tokenizer and )?chat template [^\n]+\.$"):
        ChildEncoder(model(tmp_path, DEEP[name]), 1)


def test_a_broken_template_ends_the_start_as_before(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="The model's chat template is broken: "):
        ChildEncoder(model(tmp_path, "{% for %}"), 2)


def test_a_child_that_was_killed_is_started_anew(plain: PlainEncoder) -> None:
    encoder = ChildEncoder(demo_model(), 1)
    try:
        [one] = encoder._children
        one._process.kill()
        one._process.wait()
        assert encoder.of_text("Hello", most=MOST) == plain.of_text("Hello", most=MOST)
    finally:
        encoder.close()


def test_a_child_that_is_ready_is_asked_before_one_that_has_died() -> None:
    encoder = ChildEncoder(demo_model(), 2)
    try:
        for killed in encoder._children * 2:
            killed._process.kill()
            killed._process.wait()
            assert encoder.of_text("Hello", most=MOST) != []
            assert [one.is_ready for one in encoder._children] == [one is not killed for one in encoder._children]
    finally:
        encoder.close()


def test_a_child_whose_reply_is_beyond_all_bounds_is_ended(plain: PlainEncoder) -> None:
    encoder = ChildEncoder(demo_model(), 1)
    try:
        [one] = encoder._children
        one._most = 10
        with pytest.raises(RequestError, match=r"^The text cannot be tokenized\.$"):
            encoder.of_text("Hello", most=MOST)
        one._most = 1000
        assert encoder.of_text("Hello", most=MOST) == plain.of_text("Hello", most=MOST)
    finally:
        encoder.close()


def test_the_clock_ends_a_child_where_processor_time_has_no_bound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_LONGEST_S", 0.0)
    encoder = ChildEncoder(model(tmp_path, BOMBS["loop"]), 1)
    try:
        with pytest.raises(RequestError, match="takes too long to render these messages"):
            encoder.of_chat(HELLO, {}, most=MOST)
    finally:
        encoder.close()


def test_none_is_left_when_the_encoder_is_closed_or_forgotten() -> None:
    for forget in (False, True):
        encoder = ChildEncoder(demo_model(), 2)
        encoder.of_text("Hello", most=MOST)
        assert not any(isinstance(thread, threading.Timer) for thread in threading.enumerate())  # they hold children
        processes = [one._process for one in encoder._children]
        if forget:
            del encoder
            gc.collect()
        else:
            encoder.close()
            with pytest.raises(Unavailable, match="stopping"):
                encoder.of_text("Hello", most=MOST)
        assert all(process.poll() is not None for process in processes)


@pytest.mark.skipif(sys.platform == "win32", reason="It has no SIGKILL.")
@pytest.mark.parametrize("busy", [False, True], ids=["idle", "busy"])
def test_none_outlives_a_coordinator_that_is_killed(tmp_path: Path, busy: bool) -> None:
    """Not even one whose template loops just then."""
    program = f"""
import os, threading
from pathlib import Path
from potluck.coordinator.text.children import ChildEncoder
encoder = ChildEncoder(Path({str(model(tmp_path, BOMBS["loop"]))!r}), 1)
if {busy}:
    threading.Thread(target=encoder.of_chat, args=({HELLO!r}, {{}}), kwargs=dict(most=9)).start()
print(encoder._children[0]._process.pid, flush=True)
threading.Event().wait()
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        parent.kill()
    with suppress(psutil.NoSuchProcess):  # or a zombie, where nobody cares for orphans
        eventually(lambda: child.status() == psutil.STATUS_ZOMBIE)
