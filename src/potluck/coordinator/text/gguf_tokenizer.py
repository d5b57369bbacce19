"""The tokenizer of a GGUF file, run by llama.cpp."""

from __future__ import annotations

import ctypes
import logging
import weakref
from functools import cached_property
from pathlib import Path

import llama_cpp.llama_cpp as c

from potluck.coordinator.text.partition import SpecialToken, in_order, split
from potluck.coordinator.text.tokenizer import prefixed, utf8
from potluck.errors import ModelError
from potluck.models.chat_templates import TOOL_USE

log = logging.getLogger(__name__)


_SPECIAL = c.LLAMA_TOKEN_ATTR_CONTROL | c.LLAMA_TOKEN_ATTR_USER_DEFINED | c.LLAMA_TOKEN_ATTR_UNKNOWN

_LOG_ERROR = 4


def _log(level: int, text: bytes, _user_data: object) -> None:
    if level == _LOG_ERROR:
        log.warning("llama.cpp: %s", text.decode("utf-8", "replace").strip())


_LOG_CALLBACK = c.llama_log_callback(_log)  # kept: the library holds only its address


def _template(model: object, name: bytes | None) -> str | None:
    template: bytes | None = c.llama_model_chat_template(model, name)
    return None if template is None else template.decode("utf-8", "replace")


class GgufTokenizer:
    """llama.cpp's own tokenizer for a GGUF file, read without its weights. Raises ModelError when the file has none."""

    def __init__(self, path: Path) -> None:
        c.llama_log_set(_LOG_CALLBACK, ctypes.c_void_p(0))
        params = c.llama_model_default_params()
        params.vocab_only = True
        params.n_gpu_layers = 0
        model = c.llama_model_load_from_file(str(path).encode(), params)
        if model is None:
            raise ModelError(f"llama.cpp cannot read a tokenizer from {path}.")
        weakref.finalize(self, c.llama_model_free, model)
        self._vocab = c.llama_model_get_vocab(model)
        if c.llama_vocab_type(self._vocab) == c.LLAMA_VOCAB_TYPE_NONE:
            raise ModelError(f"{path} does not contain a tokenizer.")
        self.vocabulary: int = c.llama_vocab_n_tokens(self._vocab)
        self.stop_ids = frozenset(i for i in range(self.vocabulary) if c.llama_vocab_is_eog(self._vocab, i))
        bos = c.llama_vocab_bos(self._vocab)
        self._prefix = [bos] if c.llama_vocab_get_add_bos(self._vocab) else []
        self.bos = self.name(bos)
        self.eos = self.name(c.llama_vocab_eos(self._vocab))
        self.chat_template, self.tool_template = _template(model, None), _template(model, TOOL_USE.encode())

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
        attributes, text = self._attributes(token), c.llama_vocab_get_text(self._vocab, token)
        return SpecialToken(
            token,
            text,
            is_plain=not attributes & (c.LLAMA_TOKEN_ATTR_CONTROL | c.LLAMA_TOKEN_ATTR_UNKNOWN),
            takes_left=bool(attributes & c.LLAMA_TOKEN_ATTR_LSTRIP),
            takes_right=bool(attributes & c.LLAMA_TOKEN_ATTR_RSTRIP),
        )

    def _attributes(self, token: int) -> int:
        attributes: int = c.llama_vocab_get_attr(self._vocab, token)
        return attributes

    def _tokenize(self, data: bytes, *, special: bool) -> list[int]:
        room = len(data) + 8
        while True:
            buffer = (c.llama_token * room)()
            count = c.llama_tokenize(self._vocab, data, len(data), buffer, room, False, special)
            if count >= 0:
                return buffer[:count]
            room = -count

    def piece(self, token: int, *, special: bool = False) -> bytes:
        if not 0 <= token < self.vocabulary:
            return b""  # llama.cpp would end the process
        room = 64
        while True:
            buffer = ctypes.create_string_buffer(room)
            count = c.llama_token_to_piece(self._vocab, token, buffer, room, 0, special)
            if count >= 0:
                return buffer.raw[:count]
            room = -count

    def name(self, token: int) -> str:
        return self.piece(token, special=True).decode("utf-8", "replace")
