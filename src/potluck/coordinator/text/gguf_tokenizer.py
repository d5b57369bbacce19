"""The tokenizer of a GGUF file, run by llama.cpp."""

from __future__ import annotations

import ctypes
import weakref
from functools import cached_property
from pathlib import Path

from potluck.coordinator.text.partition import SpecialToken, in_order, split
from potluck.coordinator.text.tokenizer import prefixed, utf8
from potluck.errors import ModelError
from potluck.llama.library import (
    NO_VOCABULARY,
    TOKEN_CONTROL,
    TOKEN_TAKES_LEFT,
    TOKEN_TAKES_RIGHT,
    TOKEN_UNKNOWN,
    TOKEN_USER_DEFINED,
    Llama,
    load,
)
from potluck.models.chat_templates import TOOL_USE

_SPECIAL = TOKEN_CONTROL | TOKEN_USER_DEFINED | TOKEN_UNKNOWN


def _template(library: Llama, model: int, name: bytes | None) -> str | None:
    template: bytes | None = library.llama_model_chat_template(model, name)
    return None if template is None else template.decode("utf-8", "replace")


class GgufTokenizer:
    """llama.cpp's own tokenizer for a GGUF file, read without its weights. Raises ModelError when the file has none."""

    def __init__(self, path: Path) -> None:
        self._library = library = load()
        params = library.llama_model_default_params()
        params.vocab_only = True
        params.n_gpu_layers = 0
        model = self._library.llama_model_load_from_file(str(path).encode(), params)
        if model is None:
            raise ModelError(f"llama.cpp cannot read a tokenizer from {path}.")
        weakref.finalize(self, self._library.llama_model_free, model)
        self._vocab = self._library.llama_model_get_vocab(model)
        if self._library.llama_vocab_type(self._vocab) == NO_VOCABULARY:
            raise ModelError(f"{path} does not contain a tokenizer.")
        self.vocabulary: int = self._library.llama_vocab_n_tokens(self._vocab)
        self.stop_ids = frozenset(i for i in range(self.vocabulary) if self._library.llama_vocab_is_eog(self._vocab, i))
        bos = self._library.llama_vocab_bos(self._vocab)
        self._prefix = [bos] if self._library.llama_vocab_get_add_bos(self._vocab) else []
        self.bos = self.name(bos)
        self.eos = self.name(self._library.llama_vocab_eos(self._vocab))
        self.chat_template, self.tool_template = (_template(library, model, name) for name in (None, TOOL_USE.encode()))

    def encode(self, text: str, *, special: bool, bos: bool) -> list[int]:
        # Not left to llama_tokenize, which would repeat a token that a chat template has written.
        return prefixed(self._split(utf8(text), special), self._prefix if bos else [])

    def _split(self, data: bytes, special: bool) -> list[int]:
        """As `_tokenize`, but in time for texts with many special tokens."""
        wanted = self._special if special else [token for token in self._special if token.is_plain]
        tokens: list[int] = []
        for part in split(data, wanted):
            if isinstance(part, int):
                tokens.append(part)
            else:
                tokens += self._tokenize(part, special=False)
        return tokens

    @cached_property
    def _special(self) -> list[SpecialToken]:
        found = [self._special_token(i) for i in range(self.vocabulary) if self._attributes(i) & _SPECIAL]
        return in_order(found, lambda text: self._tokenize(text, special=True))

    def _special_token(self, token: int) -> SpecialToken:
        attributes, text = self._attributes(token), self._library.llama_vocab_get_text(self._vocab, token)
        return SpecialToken(
            token,
            text,
            is_plain=not attributes & (TOKEN_CONTROL | TOKEN_UNKNOWN),
            takes_left=bool(attributes & TOKEN_TAKES_LEFT),
            takes_right=bool(attributes & TOKEN_TAKES_RIGHT),
        )

    def _attributes(self, token: int) -> int:
        attributes: int = self._library.llama_vocab_get_attr(self._vocab, token)
        return attributes

    def _tokenize(self, data: bytes, *, special: bool) -> list[int]:
        room = len(data) + 8
        while True:
            buffer = (ctypes.c_int32 * room)()
            count = self._library.llama_tokenize(self._vocab, data, len(data), buffer, room, False, special)
            if count >= 0:
                return buffer[:count]
            room = -count

    def piece(self, token: int, *, special: bool = False) -> bytes:
        if not 0 <= token < self.vocabulary:
            return b""  # llama.cpp would end the process
        room = 64
        while True:
            buffer = ctypes.create_string_buffer(room)
            count = self._library.llama_token_to_piece(self._vocab, token, buffer, room, 0, special)
            if count >= 0:
                return buffer.raw[:count]
            room = -count

    def name(self, token: int) -> str:
        return self.piece(token, special=True).decode("utf-8", "replace")
