"""The tokenizer of a Hugging Face folder, run by the `tokenizers` library; neither torch nor transformers is needed."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import msgspec
import tokenizers
from msgspec import Struct

from potluck.coordinator.text.tokenizer import prefixed, utf8
from potluck.errors import ModelError
from potluck.models.chat_templates import DEFAULT, TOOL_USE, chat_templates
from potluck.models.files import MOST_VALUES, LocalSource, read_json, shown
from potluck.models.tokenizer_files import tokenizer_file, tokenizer_json

_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")


class _Text(Struct, frozen=True):
    """A special token as an object."""

    content: str


class _Config(Struct, frozen=True):
    """What is read of tokenizer_config.json."""

    bos_token: str | _Text | None = None
    eos_token: str | _Text | None = None
    add_bos_token: bool | None = None


class _Ends(Struct, frozen=True):
    """What is read of config.json and generation_config.json."""

    eos_token_id: int | list[int] | None = None


class _Step(Struct, frozen=True):
    """A decoder of tokenizer.json, or a step of one, with those fields that say what becomes of a token."""

    type: str = "an unknown kind"
    decoders: tuple[_Step, ...] = ()
    replacement: str = ""
    pattern: dict[str, str] = {}
    content: str = ""


class _State(Struct, frozen=True):
    """What is read of tokenizer.json, beside what the library reads."""

    decoder: _Step | None = None


K = TypeVar("K", bound=Struct)


class HuggingFaceTokenizer:
    """Implements `text.tokenizer.Tokenizer`. Raises ModelError when the folder does not contain a tokenizer.

    Beside the tokenizer it reads these files if they exist: tokenizer_config.json (which tokens begin and end a
    sequence), config.json and generation_config.json (which tokens end a generation),
    and those with chat templates.
    """

    def __init__(self, folder: Path) -> None:
        files = LocalSource(folder)
        self._path = path = folder / tokenizer_file(files)
        self._state = tokenizer_json(files)
        self._tokenizer = self._build()
        added = self._tokenizer.get_added_tokens_decoder()
        self._special = {token: entry.content for token, entry in added.items() if entry.special}
        # Others are meant literally, unless the vocabulary proper has them too: Gemma's `▁▁` stays two spaces.
        learned = self._tokenizer.get_vocab(with_added_tokens=False)
        self._literal = {token: entry.content for token, entry in added.items() if entry.content not in learned}
        steps = _steps(_converted(self._state, _State, path))
        self._to_bytes = _byte_level if "ByteLevel" in _kinds(steps) else _sentence_piece(steps, path)
        self.vocabulary = max(self._tokenizer.get_vocab(with_added_tokens=True).values(), default=-1) + 1
        if self.vocabulary > MOST_VALUES:
            raise ModelError(f"{path} gives a token the id {self.vocabulary - 1}, which is beyond all bounds.")
        config, named = (_read(files, file, _Config) for file in ("tokenizer_config.json", "special_tokens_map.json"))
        self.bos = _content(config.bos_token or named.bos_token)
        self.eos = _content(config.eos_token or named.eos_token)
        self._prefix = self._read_prefix(config)
        self.stop_ids = self._stop_ids(files)
        templates = chat_templates(files)
        self.chat_template, self.tool_template = templates.get(DEFAULT), templates.get(TOOL_USE)

    def _build(self) -> tokenizers.Tokenizer:
        try:
            tokenizer = tokenizers.Tokenizer.from_str(json.dumps(self._state))
        except Exception as error:  # the library has no exception type of its own
            raise ModelError(f"The {self._path.name} of this model cannot be read: {shown(error)}.") from error
        tokenizer.no_truncation()
        tokenizer.no_padding()
        return tokenizer

    @cached_property
    def _plain(self) -> tokenizers.Tokenizer:
        """A second tokenizer that reads control tokens as text: the switch is not an argument but a state of the
        tokenizer.
        """
        tokenizer = self._build()
        tokenizer.encode_special_tokens = True
        return tokenizer

    def _read_prefix(self, config: _Config) -> list[int]:
        """The tokens that a text begins with, from the configuration or else from what the post-processor adds to an
        empty text.
        """
        bos = self._tokenizer.token_to_id(self.bos)
        begins = config.add_bos_token
        if begins is None:
            begins = self._tokenizer.encode("").ids[:1] == [bos]
        return [bos] if begins and bos is not None else []

    def _stop_ids(self, files: LocalSource) -> frozenset[int]:
        eos = self._tokenizer.token_to_id(self.eos)
        stops: set[int] = set() if eos is None else {eos}
        for name in ("config.json", "generation_config.json"):
            ids = _read(files, name, _Ends).eos_token_id
            stops.update(ids if isinstance(ids, list) else [] if ids is None else [ids])
        return frozenset(token for token in stops if 0 <= token < self.vocabulary)

    def encode(self, text: str, *, special: bool, bos: bool) -> list[int]:
        utf8(text)
        tokenizer = self._tokenizer if special else self._plain
        return prefixed(tokenizer.encode(text, add_special_tokens=False).ids, self._prefix if bos else [])

    def piece(self, token: int, *, special: bool = False) -> bytes:
        if token in self._special:
            return self._special[token].encode() if special else b""
        if token in self._literal:
            return self._literal[token].encode()
        text = self._tokenizer.id_to_token(token) if 0 <= token < self.vocabulary else None
        return b"" if text is None else self._to_bytes(text)

    def name(self, token: int) -> str:
        return self.piece(token, special=True).decode("utf-8", "replace")


def _steps(state: _State) -> list[_Step]:
    """The steps of the decoder."""
    decoder = state.decoder or _Step("none")
    return [*decoder.decoders] if decoder.type == "Sequence" else [decoder]


def _kinds(steps: list[_Step]) -> set[str]:
    return {step.type for step in steps}


def _byte_alphabet() -> dict[str, int]:
    """GPT-2's alphabet: printable bytes stand for themselves, the others for the characters from U+0100 on."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    hidden = [byte for byte in range(0x100) if byte not in printable]
    return {chr(b): b for b in printable} | {chr(0x100 + i): b for i, b in enumerate(hidden)}


_BYTES = _byte_alphabet()


def _byte_level(text: str) -> bytes:
    """The bytes of a token of a ByteLevel vocabulary. One with a character outside the alphabet is literal."""
    if all(character in _BYTES for character in text):
        return bytes(_BYTES[character] for character in text)
    return text.encode()


def _sentence_piece(steps: list[_Step], path: Path) -> Callable[[str], bytes]:
    """A function that turns a token of a SentencePiece-like vocabulary into bytes: `<0xE2>` is a byte, `▁` a space.

    Steps that act on a whole text, not on a token (Fuse, and Strip of its first space), play no part in it.
    """
    kinds = _kinds(steps)
    unknown = kinds - {"Replace", "Metaspace", "ByteFallback", "Fuse", "Strip"}
    if unknown:
        raise ModelError(f"{path} decodes by {', '.join(map(shown, sorted(unknown)))}, which Potluck does not know.")
    swaps = [swap for step in steps if (swap := _swap(step)) is not None]
    bytewise = "ByteFallback" in kinds

    def to_bytes(text: str) -> bytes:
        match = _BYTE_TOKEN.fullmatch(text) if bytewise else None
        if match is not None:
            return bytes([int(match[1], 16)])
        for old, new in swaps:
            text = text.replace(old, new)
        return text.encode()

    return to_bytes


def _swap(step: _Step) -> tuple[str, str] | None:
    """The replacement that a step of the decoder makes within a token, if any."""
    if step.type == "Metaspace":
        return step.replacement, " "
    if step.type == "Replace" and "String" in step.pattern:
        return step.pattern["String"], step.content
    return None


def _content(token: str | _Text | None) -> str:
    return token.content if isinstance(token, _Text) else token or ""


def _read(files: LocalSource, file: str, kind: type[K]) -> K:
    """What is read of a file, which may be missing. Raises ModelError when it contains anything else."""
    if files.size(file) is None:
        return kind()
    return _converted(read_json(files, file), kind, files.folder / file)


def _converted(value: object, kind: type[K], path: Path) -> K:
    try:
        return msgspec.convert(value, kind)
    except (msgspec.ValidationError, RecursionError) as error:
        raise ModelError(f"{path} is broken ({error}); fetch it again.") from error
