"""The other doors to a chat: OpenAI's responses and Anthropic's messages, as translations to chat completions."""
