"""The split at special tokens is llama.cpp's own, token by token, for vocabularies in which they overlap."""

from pathlib import Path

import gguf
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kit.tiny_gguf import MERGES, byte_characters
from potluck.coordinator.text.gguf_tokenizer import GgufTokenizer
from potluck.coordinator.text.partition import SpecialToken, split
from potluck.local import demo_model

SPECIAL = {
    "control": ["<s>", "</s>", "<a>", "<a><a>", "<|x|>", "|>", "><", "s><", "<|endoftext|>", "\n\n", "q\tq"],
    "user": ["aba", "bab", "abb", "bba", "<b>", "<b><a>", "   ", "\n\n\n", "é", "  \n", "\n  ", "<mask>"],
}
"""Of equal length and overlapping, within each other, of space, control tokens and those that users defined."""

BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
PLAIN = ["▁", "a", "b", "c", "ab", "▁a", "x", "<", ">", "|", "s", "▁▁"]


def spm(path: Path, name: str, *, space_prefix: bool) -> Path:
    kind = gguf.TokenType
    pieces = ["<unk>", *SPECIAL["control"], *SPECIAL["user"], *BYTES, *PLAIN]
    kinds = [
        kind.UNKNOWN,
        *[kind.CONTROL] * len(SPECIAL["control"]),
        *[kind.USER_DEFINED] * len(SPECIAL["user"]),
        *[kind.BYTE] * 256,
        *[kind.NORMAL] * len(PLAIN),
    ]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name(name)
    writer.add_tokenizer_model("llama")
    writer.add_token_scores([-float(rank) for rank in range(len(pieces))])
    writer.add_add_space_prefix(space_prefix)
    return written(writer, path, pieces, kinds)


def bpe(path: Path, pre: str) -> Path:
    kind = gguf.TokenType
    plain = [*byte_characters(), *(merge.replace(" ", "") for merge in MERGES)]
    special = [text for text in SPECIAL["control"] + SPECIAL["user"] if text not in plain]
    kinds = [kind.CONTROL if text in SPECIAL["control"] else kind.USER_DEFINED for text in special]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_merges(list(MERGES))
    return written(writer, path, [*plain, *special], [*[kind.NORMAL] * len(plain), *kinds])


def written(writer: gguf.GGUFWriter, path: Path, pieces: list[str], kinds: list[gguf.TokenType]) -> Path:
    writer.add_context_length(64)
    writer.add_embedding_length(32)
    writer.add_block_count(1)
    writer.add_feed_forward_length(32)
    writer.add_head_count(1)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_token_list(pieces)
    writer.add_token_types(kinds)
    writer.add_bos_token_id(pieces.index("<s>"))
    writer.add_eos_token_id(pieces.index("</s>"))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="module")
def vocabularies(tmp_path_factory: pytest.TempPathFactory) -> dict[str, GgufTokenizer]:
    """SentencePiece with and without its first space, and where special tokens take the space after them (Phi 3) or
    before them (Jina's mask).
    """
    folder = tmp_path_factory.mktemp("vocabularies")
    paths = {
        "prefixed": spm(folder / "prefixed.gguf", "tiny", space_prefix=True),
        "bare": spm(folder / "bare.gguf", "tiny", space_prefix=False),
        "takes right": spm(folder / "right.gguf", "phi-3", space_prefix=True),
        "bpe": bpe(folder / "bpe.gguf", "gpt-2"),
        "takes left": bpe(folder / "left.gguf", "jina-v2-de"),
        "smollm2": demo_model(),
    }
    return {name: GgufTokenizer(path) for name, path in paths.items()}


SMOLLM2 = ["<|im_start|>", "<|im_end|>", "🥘"]
PIECES = [*SPECIAL["control"], *SPECIAL["user"], *PLAIN, *SMOLLM2, " ", "\n", "\t", "\v", "\r\n"]


@pytest.mark.parametrize(
    "text", ["><\n\n", " " * 6, "<|endoftext|>\n\n\n\v   ", "   \t\n\n\n>", "   \n\n\n", "\n\n\n   "]
)
@pytest.mark.parametrize("special", [False, True])
def test_tokens_of_space_beside_those_that_take_it(
    vocabularies: dict[str, GgufTokenizer], text: str, special: bool
) -> None:
    for tokenizer in vocabularies.values():
        assert tokenizer._split(text.encode(), special) == tokenizer._tokenize(text.encode(), special=special)


@given(
    st.lists(st.sampled_from(PIECES) | st.text(st.characters(codec="utf-8"), max_size=4), max_size=12).map("".join),
    st.sampled_from(["prefixed", "bare", "takes right", "bpe", "takes left", "smollm2"]),
    st.booleans(),
)
@settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_it_is_llama_cpps_split(vocabularies: dict[str, GgufTokenizer], text: str, name: str, special: bool) -> None:
    tokenizer = vocabularies[name]
    assert tokenizer._split(text.encode(), special) == tokenizer._tokenize(text.encode(), special=special)


def test_the_vocabularies_have_what_makes_it_hard(vocabularies: dict[str, GgufTokenizer]) -> None:
    assert any(token.takes_left for token in vocabularies["takes left"]._special)
    assert any(token.takes_right for token in vocabularies["takes right"]._special)
    assert any(token.is_plain for token in vocabularies["prefixed"]._special)
    overlapping = vocabularies["bare"].encode("ababab", special=True, bos=False)
    assert overlapping == vocabularies["bare"]._tokenize(b"ababab", special=True)


def test_many_special_tokens_never_reach_llama_cpp(
    vocabularies: dict[str, GgufTokenizer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own split would take half a minute for these."""
    tokenizer = vocabularies["smollm2"]
    assert tokenizer.encode("<|im_start|>", special=True, bos=False) == [1]
    monkeypatch.setattr(tokenizer, "_tokenize", None)
    assert tokenizer.encode("<|im_start|>" * 80_000, special=True, bos=False) == [1] * 80_000


@pytest.mark.parametrize(
    ("left", "right", "parts"),
    [
        (False, False, [b"a ", 1, b" ", 1, b" b "]),
        (True, False, [b"a", 1, 1, b" b "]),
        (False, True, [b"a ", 1, 1, b"b "]),
        (True, True, [b"a", 1, 1, b"b "]),
    ],
)
def test_space_that_a_token_takes(left: bool, right: bool, parts: list[int | bytes]) -> None:
    token = SpecialToken(1, b"<m>", takes_left=left, takes_right=right)
    assert split(b"a <m> <m> b ", [token]) == parts


def test_the_first_token_counts_where_two_overlap() -> None:
    one, other = SpecialToken(1, b"ab"), SpecialToken(2, b"ba")
    assert split(b"aba", [one, other]) == [1, b"a"]
    assert split(b"aba", [other, one]) == [b"a", 2]
    assert split(b"", [one, other]) == []
