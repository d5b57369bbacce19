"""Calls that are JSON objects of a name and arguments, bare, in a list, or in a fenced block."""

from __future__ import annotations

from potluck.coordinator.text.calls.scan import Scan, Steps, decoded, encoded
from potluck.coordinator.text.calls.stream import Calls

_ARGUMENTS = ("arguments", "parameters")
_KEYS = {f'"{key}"': key for key in ("name", *_ARGUMENTS, "type", "id", "function")}
"""The members that models give calls. An object that begins with another one is no call."""


class _Object:
    """Reads one call, whose members may come in any order. Arguments are told as they come if the name is known.

    is_inner: it is a member of an object, with which the call ends.
    """

    def __init__(self, scan: Scan, calls: Calls, *, is_inner: bool = False) -> None:
        self._scan = scan
        self._calls = calls
        self._is_inner = is_inner
        self._name: str | None = None
        self._arguments: str | None = None
        """The arguments, if they came before the name."""
        self._has_begun = False

    def read(self) -> Steps[bool]:
        """Returns whether a call began. The parser is then at the end of the object, or where it is odd."""
        if not (yield from self._scan.literal("{")):
            return False
        while (yield from self._member()):
            yield from self._scan.spaces()
            if not (yield from self._scan.literal(",")):
                yield from self._close()
                break
            if self._has_begun:
                yield from self._scan.nested(_pass, depth=1)
                break
        if self._has_begun and not self._is_inner:
            self._calls.end()
        return self._has_begun

    def _close(self) -> Steps[None]:
        is_closed = yield from self._scan.literal("}")
        if is_closed and self._name is not None and not self._has_begun:
            self._begin(self._name)

    def _member(self) -> Steps[bool]:
        """Read a member. Returns whether it may belong to a call."""
        yield from self._scan.spaces()
        key = yield from self._scan.one_of(_KEYS)
        yield from self._scan.spaces()
        if key is None or not (yield from self._scan.literal(":")):
            return False
        yield from self._scan.spaces()
        first = yield from self._scan.peek()
        match _KEYS[key]:
            case "name":
                return (yield from self._read_name())
            case "arguments" | "parameters":
                return (yield from self._read_arguments(first))
            case "type":
                return (yield from self._scan.json_name(("function",))) is not None
            case "function" if first == "{" and not self._is_inner:  # as OpenAI writes calls
                self._has_begun = yield from _Object(self._scan, self._calls, is_inner=True).read()
                return self._has_begun
        return first == '"' and (yield from self._scan.json_text()) != ""

    def _read_name(self) -> Steps[bool]:
        if self._has_begun:
            return False
        self._name = yield from self._scan.json_name(self._calls.tools)
        if self._name is not None and self._arguments is not None:
            self._begin(self._name)
        return self._name is not None

    def _read_arguments(self, first: str) -> Steps[bool]:
        if self._has_begun or self._arguments is not None:
            return False
        if first == "{" and self._name is not None:
            self._calls.begin(self._name)
            self._has_begun = True
            yield from self._scan.nested(self._calls.add)
            return True
        self._arguments = yield from self._other_arguments(first)
        if self._arguments is not None and self._name is not None:
            self._begin(self._name)
        return self._arguments is not None

    def _other_arguments(self, first: str) -> Steps[str | None]:
        """Arguments that cannot be told at once; None if they are no object."""
        if first == "n":
            return "{}" if (yield from self._scan.literal("null")) else None
        if first not in ("{", '"'):
            return None
        source = yield from self._scan.json_text()
        value = decoded(source)
        if isinstance(value, str):  # as OpenAI writes them
            value = decoded(value)
        return encoded(value) if isinstance(value, dict) else None

    def _begin(self, name: str) -> None:
        self._calls.begin(name)
        self._calls.add(self._arguments or "{}")
        self._has_begun = True


def _pass(_: str) -> None:
    """What follows the name and the arguments says nothing."""


def read_object(scan: Scan, calls: Calls) -> Steps[bool]:
    """Read a call that is a JSON object. Returns whether one began."""
    return (yield from _Object(scan, calls).read())


def read_list(scan: Scan, calls: Calls) -> Steps[bool]:
    """Read a list of such calls. Returns whether one began."""
    start = calls.found
    if (yield from scan.literal("[")):
        yield from scan.spaces()
        while (yield from read_object(scan, calls)):
            yield from scan.spaces()
            if not (yield from scan.literal(",")):
                yield from scan.literal("]")
                break
            yield from scan.spaces()
    return calls.found > start
