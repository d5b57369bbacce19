"""SmolLM2 with a chat template that teaches it tools, so that it calls them by itself, which it else never does."""

from __future__ import annotations

from pathlib import Path

from kit.processes import python

TEMPLATE = Path(__file__).parents[1] / "data" / "tool_use.jinja"


def write_tool_model(source: Path, folder: Path) -> Path:
    """A copy of the GGUF with that template. source: SmolLM2's."""
    path = folder / "SmolLM2.gguf"
    python("-m", "gguf.scripts.gguf_new_metadata", "--chat-template-file", TEMPLATE, source, path)
    return path
