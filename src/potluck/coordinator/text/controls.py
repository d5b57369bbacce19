"""Control tokens by their text: which of them a string names, such as the stop string `<|im_end|>`."""

from __future__ import annotations

from potluck.coordinator.text.tokenizer import Tokenizer
from potluck.types import ANY_NUMBER


class Controls:
    """The tokens that answers leave out, because they stand for no text, among the first `most` of a vocabulary. Making
    this reads all of them. ids: by their text.
    """

    def __init__(self, tokenizer: Tokenizer, most: int = ANY_NUMBER) -> None:
        ids = (token for token in range(min(tokenizer.vocabulary, most)) if not tokenizer.piece(token))
        self.ids = {text: token for token in ids if (text := tokenizer.name(token))}

    def in_text(self, text: str) -> frozenset[int]:
        """The control tokens whose text is contained in this one."""
        return frozenset(token for name, token in self.ids.items() if name in text)

    def named(self, text: str) -> int | None:
        """The control token whose text is exactly this; None if there is none."""
        return self.ids.get(text)
