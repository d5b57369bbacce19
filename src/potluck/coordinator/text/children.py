"""An encoder whose work is done by child processes, so that no template and no text takes the coordinator with it."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple, TypeVar

from potluck.coordinator.text import child, pipe
from potluck.coordinator.text.calls.registry import dialect_named
from potluck.coordinator.text.encoder import MOST_SHOWN, Messages, Options, Prompt, TooManyTokens
from potluck.coordinator.text.thinking import Thinking
from potluck.coordinator.text.tokenizer import utf8
from potluck.errors import ModelError, RequestError, Unavailable
from potluck.platform import OUT_OF_MEMORY, TIME_UP

log = logging.getLogger(__name__)

R = TypeVar("R", bound=pipe.Reply)

_LONGEST_S = 60.0
"""The seconds by the clock of one request. Where processor time can be bounded, that bound ends the child before."""

_SHOWN_BYTES = 6 * MOST_SHOWN + 1024
"""The most bytes of a reply that shows tokens or their text, all of whose characters JSON may have to escape."""

_START_S = 600.0
"""The seconds by the clock in which a child must have read its tokenizer and its template."""


class _Task(NamedTuple):
    """What a child does, in the words of a complaint about it. param: the field of the request that it is about."""

    takes: str
    fails: str
    param: str | None = None


_READING = _Task(
    "The model's tokenizer and chat template take {} to read.",
    "The model's tokenizer and chat template cannot be read.",
)
_RENDERING = _Task(
    "The model's chat template takes {} to render these messages.",
    "The model's chat template cannot render these messages.",
    "messages",
)
_TOKENIZING = _Task("The text takes {} to tokenize.", "The text cannot be tokenized.")
_PREDICTING = _Task("The prediction takes {} to tokenize.", "The prediction cannot be tokenized.", "prediction")
_SHOWING = _Task("It takes {} to turn these tokens into text.", "These tokens cannot be turned into text.", "tokens")


class _Child:
    """One child, which is started again when it has died. most: the bytes of its longest reply."""

    def __init__(self, command: list[str], most: int) -> None:
        self._command = command
        self._most = most
        self._is_over = False
        self._begin()

    def _begin(self) -> None:
        """Start the process. It reads its tokenizer meanwhile, and the next request waits for that."""
        pipes = subprocess.PIPE
        # Its complaints are dropped, because a client may make it crash as often as it likes.
        process = subprocess.Popen(self._command, stdin=pipes, stdout=pipes, stderr=subprocess.DEVNULL)
        assert process.stdin is not None
        assert process.stdout is not None
        self._process, self._to, self._from = process, process.stdin, process.stdout
        self._is_ready = self._is_late = False
        self._end = weakref.finalize(self, _kill, process)

    def _begin_if_dead(self) -> None:
        if self._process.poll() is not None:
            self._end()
            self._begin()

    @property
    def is_ready(self) -> bool:
        """Whether it lives, and has read its tokenizer and template."""
        return self._is_ready and self._process.poll() is None

    def ready(self) -> pipe.Ready:
        """The child's first message. Raises ModelError when the tokenizer or the template is broken."""
        with self._within(_START_S):
            try:
                first: pipe.First = pipe.decode_first(self.received(_READING))
            except RequestError as error:
                raise ModelError(str(error)) from error
        if isinstance(first, pipe.Broken):
            raise ModelError(first.message)
        self._is_ready = True
        return first

    @contextmanager
    def asked(self, request: bytes) -> Iterator[None]:
        """Send a request, whose replies are `received` in the block. A child that dies of it is started anew.

        Raises Unavailable when it cannot be started.
        """
        if self._is_over:
            raise Unavailable("The coordinator is stopping.")
        try:
            self._begin_if_dead()
            if not self._is_ready:
                self.ready()
        except (ModelError, OSError) as error:  # it could be started when the coordinator was
            raise Unavailable(f"No text can be read now: {error}") from error
        with self._within(_LONGEST_S):
            with suppress(BrokenPipeError):  # it has died, and `received` says how
                pipe.send(self._to, request)
            yield

    def received(self, task: _Task) -> bytes:
        """The next message. Raises RequestError when the child has died of its task."""
        try:
            body = pipe.receive(self._from, self._most)
        except ValueError:  # where its next reply would begin is not known
            self._process.kill()
            body = None
        if body is not None:
            return body
        code, is_late = self._process.wait(), self._is_late
        log.warning("A child that reads texts ended with code %s.", code)
        if not self._is_over:
            self._begin_if_dead()  # now, so that it is ready when somebody else asks
        if is_late or code == TIME_UP:
            raise RequestError(task.takes.format("too long"), param=task.param)
        if code == OUT_OF_MEMORY:
            raise RequestError(task.takes.format("too much memory"), param=task.param)
        raise RequestError(task.fails, param=task.param)

    def end(self) -> None:
        """End it for good."""
        self._is_over = True
        self._end()

    @contextmanager
    def _within(self, seconds: float) -> Iterator[None]:
        """Kill the child if the block takes longer than this."""
        timer = threading.Timer(seconds, self._give_up)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
            timer.join()  # until it ends, it holds this child, and might kill the next process

    def _give_up(self) -> None:
        self._is_late = True
        self._process.kill()


def _kill(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
    for end in (process.stdin, process.stdout):
        assert end is not None
        with suppress(BrokenPipeError):
            end.close()


class ChildEncoder:
    """Implements `text.encoder.Encoder` with this many children, each of which does one thing at a time.

    longest: the bytes of the longest text that will come. Raises ModelError when the model's tokenizer or chat template
    is broken, or takes too much time or memory to read.
    """

    def __init__(self, model: Path, children: int, longest: int = 0) -> None:
        command = [sys.executable, "-m", child.__name__, str(model), str(longest)]
        most = max(longest, _SHOWN_BYTES)  # a token's number takes fewer bytes than a prompt may have for it
        self._children = [_Child(command, most) for _ in range(children)]
        try:
            first, *_ = [one.ready() for one in self._children]
        except ModelError:
            self.close()
            raise
        self._idle, self._freed = [*self._children], threading.Condition()
        self.calls = dialect_named(first.calls)
        self.thinking = None if first.thinking is None else Thinking[first.thinking]
        self.stops = first.stops

    def of_text(self, text: str, *, most: int) -> list[int]:
        utf8(text)
        with self._asked(pipe.OfText(text, most)) as one:
            return _tokens(one)

    def of_chat(self, messages: Messages, options: Options, *, most: int) -> Prompt:
        with self._asked(pipe.OfChat(list(messages), dict(options), most)) as one:
            rendered = _reply(one.received(_RENDERING), pipe.Rendered)
            return Prompt(_tokens(one), rendered.place, rendered.end)

    def of_prediction(self, text: str, *, most: int) -> list[int]:
        utf8(text)
        with self._asked(pipe.OfPrediction(text, most)) as one:
            return _tokens(one, _PREDICTING)

    def shown(self, text: str, *, bos: bool, pieces: bool) -> bytes:
        utf8(text)
        with self._asked(pipe.Shown(text, bos, pieces)) as one:
            body = one.received(_TOKENIZING)
        if not body.startswith(b"["):
            _reply(body, pipe.Text)
        return body

    def text_of(self, tokens: list[int]) -> str:
        with self._asked(pipe.TextOf(tokens)) as one:
            return _reply(one.received(_SHOWING), pipe.Text).text

    def close(self) -> None:
        for one in self._children:
            one.end()

    @contextmanager
    def _asked(self, request: pipe.Request) -> Iterator[_Child]:
        """Ask a child that is idle: one that need not be started if there is one, or else that which died first."""
        with self._freed:
            self._freed.wait_for(lambda: self._idle)
            one = next((one for one in self._idle if one.is_ready), self._idle[-1])
            self._idle.remove(one)
        try:
            with one.asked(pipe.encode(request)):
                yield one
        finally:
            with self._freed:
                self._idle.insert(0, one)
                self._freed.notify()


def _tokens(one: _Child, task: _Task = _TOKENIZING) -> list[int]:
    return _reply(one.received(task), pipe.Tokens).tokens


def _reply(body: bytes, kind: type[R]) -> R:
    """The reply, which is of this kind. Raises what the child would have raised."""
    match pipe.decode_reply(body):
        case pipe.Refused(message, status, param):
            raise RequestError(message, status=status, param=param)
        case pipe.TooMany(count):
            raise TooManyTokens(count)
        case reply:
            assert isinstance(reply, kind)
            return reply
