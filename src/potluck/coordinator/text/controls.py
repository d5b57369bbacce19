"""Control tokens by their text: which of them a string names, such as the stop string `<|im_end|>`."""

from __future__ import annotations

from potluck.coordinator.text.tokenizer import Tokenizer


class Controls:
    """The tokens of a vocabulary that answers leave out, because they stand for no text. Making this reads all of the
    vocabulary.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        ids = (token for token in range(tokenizer.vocabulary) if not tokenizer.piece(token))
        self._ids = {text: token for token in ids if (text := tokenizer.name(token))}

    def in_text(self, text: str) -> frozenset[int]:
        """The control tokens whose text is contained in this one."""
        return frozenset(token for name, token in self._ids.items() if name in text)

    def named(self, text: str) -> int | None:
        """The control token whose text is exactly this; None if there is none."""
        return self._ids.get(text)
