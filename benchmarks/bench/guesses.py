"""Guesses that are right as often as a script says, and the file by which a benchmark gives it to a coordinator."""

from __future__ import annotations

import asyncio
import zlib
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
from msgspec import Struct

from bench.prompts import Prompt
from potluck.coordinator.generation.guesses import Guesser

PROGRAM = Path(__file__).parents[1] / "guessed_coordinator.py"
GUESS_S = 0.008
"""What a guess of a small model takes."""
DEEP = 15
"""The guesses that are under way where it is not left to the coordinator: with the known token, 16 rows."""
_BEGIN = 4
"""The tokens by which texts are looked up."""


class Script(Struct, frozen=True):
    """How to guess from now on.

    guess: "off"; "copies" for what the coordinator does without a small model; "own" for what it does with its own;
    "right:0.8" for guesses of which that share is right, which a guesser makes that knows the answers; "own:0.8" for
    those of its own small model, of which that share is left as it is; and "random" for tokens that hardly ever come.
    deep: whether `DEEP` guesses are under way, whether they pay or not. place: what the coordinator has learned about
    these guesses at other places does not count. seed: that of the errors. texts: prompts with their answers.
    """

    guess: str = "off"
    deep: bool = False
    place: str = ""
    seed: int = 0
    texts: list[Prompt] = []

    @property
    def kind(self) -> str:
        return self.guess.partition(":")[0]

    @property
    def share(self) -> float:
        """The share of guesses that are left as they are."""
        return float(self.guess.partition(":")[2] or 1)

    def write(self, path: Path) -> None:
        """Give the script to the coordinator that reads this file. It counts from the next token on."""
        new = path.with_suffix(".new")
        new.write_bytes(msgspec.json.encode(self))
        new.replace(path)


class ScriptFile:
    """The script in a file, which may change at any time."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read = 0
        self._script = Script()
        self._texts: dict[bytes, list[Prompt]] = {}

    @property
    def script(self) -> Script:
        changed = self._path.stat().st_mtime_ns
        if changed != self._read:
            self._read, self._script = changed, msgspec.json.decode(self._path.read_bytes(), type=Script)
            self._texts = defaultdict(list)
            for text in self._script.texts:
                self._texts[_bytes(text[:_BEGIN])].append(text)
        return self._script

    def text(self, known: Prompt) -> Prompt:
        """The text that begins with these tokens; an empty one if there is none."""
        texts = self._texts.get(_bytes(known[:_BEGIN]), [])
        return next((text for text in texts if text[: len(known)] == known), [])


def _bytes(tokens: Sequence[int]) -> bytes:
    return np.array(tokens, np.int32).tobytes()


def scripted_guesser(file: ScriptFile, vocabulary: int, own: Guesser) -> Guesser | None:
    """A guesser for one answer as the script says; None where there would be no small model.

    own: that of the small model that the coordinator has anyway.
    """
    script = file.script
    if script.guess in ("off", "copies", "own"):
        return own if script.guess == "own" else None
    return ScriptedGuesser(file, vocabulary, own)


class ScriptedGuesser:
    """Guesses about one answer as the script says."""

    is_here = True

    def __init__(self, file: ScriptFile, vocabulary: int, own: Guesser) -> None:
        self._file = file
        self._vocabulary = vocabulary
        self._own = own
        self._text: Prompt = []

    async def guess(self, tokens: Sequence[int], ahead: int) -> int | None:
        script = self._file.script
        chance = np.random.default_rng((script.seed, zlib.crc32(_bytes(tokens[:_BEGIN])), len(tokens)))
        if script.kind == "random":
            return int(chance.integers(self._vocabulary))
        token = await self._good(script.kind, tokens, ahead)
        if token is None or chance.random() < script.share:
            return token
        return int(token + chance.integers(1, self._vocabulary)) % self._vocabulary

    async def _good(self, kind: str, tokens: Sequence[int], ahead: int) -> int | None:
        """The guess before errors."""
        if kind == "own":
            return await self._own.guess(tokens, ahead)
        known = list(tokens[: len(tokens) - ahead])
        if self._text[: len(known)] != known:
            self._text = self._file.text(known)
        if kind != "right" or len(tokens) >= len(self._text):
            return None
        await asyncio.sleep(GUESS_S)
        return self._text[len(tokens)]

    def close(self) -> None:
        self._own.close()
