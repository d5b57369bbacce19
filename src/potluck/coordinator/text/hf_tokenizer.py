"""The tokenizer of a Hugging Face folder, run by the `tokenizers` library; neither torch nor transformers is needed."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import tokenizers

from potluck.coordinator.text.tokenizer import prefixed, utf8
from potluck.errors import ModelError

_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")

_Step = Callable[[str], str | bytes]


class HuggingFaceTokenizer:
    """Implements `text.tokenizer.Tokenizer`. Raises ModelError when the folder does not contain a fast tokenizer.

    Beside tokenizer.json it reads these files if they exist: tokenizer_config.json (which tokens begin and end a
    sequence, chat template), config.json and generation_config.json (which tokens end a generation),
    chat_template.jinja.
    """

    def __init__(self, folder: Path) -> None:
        path = folder / "tokenizer.json"
        if not path.is_file():
            raise ModelError(f"{folder} has no tokenizer.json, the only kind of tokenizer that Potluck reads there.")
        self._state = _read_json(path)
        self._tokenizer = self._build()
        added = self._tokenizer.get_added_tokens_decoder()
        self._special = {token: entry.content for token, entry in added.items() if entry.special}
        # Others are meant literally, unless the vocabulary proper has them too: Gemma's `▁▁` stays two spaces.
        learned = self._tokenizer.get_vocab(with_added_tokens=False)
        self._literal = {token: entry.content for token, entry in added.items() if entry.content not in learned}
        self._to_bytes = _byte_level if "ByteLevel" in _kinds(self._state) else _sentence_piece(self._state, path)
        self.vocabulary = max(self._tokenizer.get_vocab(with_added_tokens=True).values(), default=-1) + 1
        config = _read_json(folder / "tokenizer_config.json", {})
        self.bos, self.eos = _content(config.get("bos_token")), _content(config.get("eos_token"))
        self._prefix = self._read_prefix(config)
        self.stop_ids = self._stop_ids(folder)
        self.chat_template = _chat_template(folder, config)

    def _build(self) -> tokenizers.Tokenizer:
        try:
            tokenizer = tokenizers.Tokenizer.from_str(json.dumps(self._state))
        except Exception as error:  # the library has no exception type of its own
            raise ModelError(f"The tokenizer.json of this model cannot be read: {error}.") from error
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

    def _read_prefix(self, config: dict[str, Any]) -> list[int]:
        """The tokens that a text begins with, from the configuration or else from what the post-processor adds to an
        empty text.
        """
        bos = self._tokenizer.token_to_id(self.bos)
        begins = config.get("add_bos_token")
        if begins is None:
            begins = self._tokenizer.encode("").ids[:1] == [bos]
        return [bos] if begins and bos is not None else []

    def _stop_ids(self, folder: Path) -> frozenset[int]:
        eos = self._tokenizer.token_to_id(self.eos)
        stops: set[int] = set() if eos is None else {eos}
        for name in ("config.json", "generation_config.json"):
            ids = _read_json(folder / name, {}).get("eos_token_id")
            stops.update(ids if isinstance(ids, list) else [] if ids is None else [ids])
        return frozenset(stops)

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


def _decoders(state: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The steps of the decoder, flattened."""
    decoder = state.get("decoder") or {"type": "none"}
    yield from decoder["decoders"] if decoder["type"] == "Sequence" else [decoder]


def _kinds(state: dict[str, Any]) -> list[str]:
    return [decoder["type"] for decoder in _decoders(state)]


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


def _sentence_piece(state: dict[str, Any], path: Path) -> Callable[[str], bytes]:
    """A function that turns a token of a SentencePiece-like vocabulary into bytes: `<0xE2>` is a byte, `▁` a space.

    Steps that act on a whole text, not on a token (Fuse, and Strip of its first space), play no part in it.
    """
    kinds = _kinds(state)
    unknown = set(kinds) - {"Replace", "Metaspace", "ByteFallback", "Fuse", "Strip"}
    if unknown:
        raise ModelError(f"{path} decodes by {', '.join(sorted(unknown))}, which Potluck does not know.")
    swaps = [swap for decoder in _decoders(state) if (swap := _swap(decoder)) is not None]
    bytewise = "ByteFallback" in kinds

    def to_bytes(text: str) -> bytes:
        match = _BYTE_TOKEN.fullmatch(text) if bytewise else None
        if match is not None:
            return bytes([int(match[1], 16)])
        for old, new in swaps:
            text = text.replace(old, new)
        return text.encode()

    return to_bytes


def _swap(decoder: dict[str, Any]) -> tuple[str, str] | None:
    """The replacement that a decoder step makes within a token, if any."""
    if decoder["type"] == "Metaspace":
        return decoder["replacement"], " "
    if decoder["type"] == "Replace" and "String" in decoder["pattern"]:
        return decoder["pattern"]["String"], decoder["content"]
    return None


def _chat_template(folder: Path, config: dict[str, Any]) -> str | None:
    """The model's chat template. A separate file comes first; a list of named templates gives its default, or its
    first.
    """
    file = folder / "chat_template.jinja"
    if file.is_file():
        return file.read_text(encoding="utf-8")
    template = config.get("chat_template")
    if isinstance(template, list):
        named = {entry["name"]: entry["template"] for entry in template}
        template = named.get("default", next(iter(named.values()), None))
    return template


def _content(token: Any) -> str:
    """The text of a special token in tokenizer_config.json, which may be a text, an object, or null."""
    return str(token["content"]) if isinstance(token, dict) else str(token or "")


def _read_json(path: Path, default: dict[str, Any] | None = None) -> dict[str, Any]:
    """The object in a file; `default` if the file is missing. Raises ModelError when it contains anything else."""
    if default is not None and not path.is_file():
        return default
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(f"{path} is not JSON: {error}.") from error
    if not isinstance(value, dict):
        raise ModelError(f"{path} does not contain a JSON object.")
    return value
