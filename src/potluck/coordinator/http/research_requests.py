"""The requests of researchers: texts and tokens turned into each other, and hidden rows."""

from __future__ import annotations

from typing import Annotated

from msgspec import Struct

from potluck.coordinator.http.parsing import described, refused_with
from potluck.coordinator.http.requests import Token
from potluck.errors import RequestError
from potluck.types import Priority

_NOT_EMPTY = refused_with("The prompt is empty.", min_length=1)


class TokenizeRequest(Struct, frozen=True, kw_only=True):
    """A request for tokens with llama.cpp's server's field `content`, or with vLLM's field `prompt`.

    add_special: begin as a sequence does; vLLM calls it add_special_tokens and has the opposite default.
    with_pieces: return each token's text as well.
    """

    model: str = ""
    content: str | None = None
    add_special: bool = False
    with_pieces: bool = False
    prompt: str | None = None
    add_special_tokens: bool = True

    @property
    def given(self) -> tuple[str, bool]:
        """The text, and whether to begin as a sequence does. Raises RequestError unless exactly one of the fields is
        given.
        """
        if self.content is not None and self.prompt is None:
            return self.content, self.add_special
        if self.prompt is not None and self.content is None:
            return self.prompt, self.add_special_tokens
        raise RequestError("Give either content or a prompt.", param="content")


class DetokenizeRequest(Struct, frozen=True, kw_only=True):
    model: str = ""
    tokens: list[Token]


class HiddenStatesRequest(Struct, frozen=True, kw_only=True):
    """A request for the hidden rows of a prompt, which is text or token ids. layer: not the model's last, which has
    none.
    """

    model: str = ""
    layer: Annotated[int, described(minimum=0)]
    prompt: Annotated[str, _NOT_EMPTY] | None = None
    tokens: Annotated[list[Token], _NOT_EMPTY] | None = None
    priority: Priority = Priority.INTERACTIVE

    @property
    def given(self) -> str | list[int]:
        """The prompt or the tokens. Raises RequestError unless exactly one of them is given."""
        if self.prompt is None and self.tokens is not None:
            return self.tokens
        if self.tokens is None and self.prompt is not None:
            return self.prompt
        raise RequestError("Give either a prompt or tokens.", param="prompt")
