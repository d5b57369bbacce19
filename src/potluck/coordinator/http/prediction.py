"""What a request says that its answer will be, in the words of OpenAI's Predicted Outputs."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct


class PredictedPart(Struct, frozen=True):
    """A part of the text, with a type as the parts of messages have it."""

    text: str | None
    type: Literal["text", "input_text", "output_text"] | None = None


class Prediction(Struct, frozen=True):
    """The text that the answer will probably have, for the most part. It changes nothing but how fast that comes."""

    content: str | list[str | PredictedPart] | None
    type: Literal["content"] = "content"

    @property
    def text(self) -> str:
        """All of it. Its parts follow each other directly, because they are one answer."""
        if isinstance(self.content, str):
            return self.content
        return "".join(part if isinstance(part, str) else part.text or "" for part in self.content or ())
