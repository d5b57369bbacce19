"""Tokenizers, chat templates and tool calls: the seam between text and token ids."""
