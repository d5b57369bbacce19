"""Metadata and a byte tokenizer for model files of the GPT-NeoX architecture whose weights are made up."""

from __future__ import annotations

from gguf import GGUFWriter, TokenType

END_OF_TEXT = "<|endoftext|>"
CONTEXT = 2048


def add_metadata(writer: GGUFWriter, *, layers: int, hidden: int, heads: int, feed_forward: int) -> None:
    writer.add_block_count(layers)
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(hidden)
    writer.add_feed_forward_length(feed_forward)
    writer.add_head_count(heads)
    writer.add_rope_dimension_count(hidden // heads // 4)
    writer.add_parallel_residual(True)
    writer.add_layer_norm_eps(1e-5)


def add_tokenizer(writer: GGUFWriter, vocabulary: int = 0) -> int:
    """Add the 256 bytes, one merge and the end of text, then unused tokens until there are `vocabulary` in all.

    Returns the number of tokens.
    """
    tokens = [*byte_characters(), "th", END_OF_TEXT]
    types = [*[TokenType.NORMAL] * (len(tokens) - 1), TokenType.CONTROL]
    unused = [f"[unused {token}]" for token in range(len(tokens), vocabulary)]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([*tokens, *unused])
    writer.add_token_types([*types, *[TokenType.UNUSED] * len(unused)])
    writer.add_token_merges(["t h"])
    writer.add_bos_token_id(tokens.index(END_OF_TEXT))
    writer.add_eos_token_id(tokens.index(END_OF_TEXT))
    writer.add_add_bos_token(False)
    writer.add_vocab_size(len(tokens) + len(unused))
    return len(tokens) + len(unused)


def byte_characters() -> list[str]:
    """The printable character that byte-level BPE writes for each of the 256 bytes."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) if byte in printable else chr(256 + others.index(byte)) for byte in range(256)]
