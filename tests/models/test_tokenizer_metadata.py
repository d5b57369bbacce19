"""Tokenizers as GGUF metadata: llama.cpp tokenizes the converted file as `tokenizers` does the original."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kit.sentences import check_sentence
from kit.tiny_gguf import CHAT_TEMPLATE, write_tiny_gguf
from kit.tiny_hf import write_tiny_hf, write_tiny_tokenizer
from potluck.errors import ModelError
from potluck.models.modelfile import write_model_file
from potluck.models.sources import LocalSource, open_model
from potluck.models.tokenizer_metadata import tokenizer_entries
from potluck.types import Quantize

tokenizers = pytest.importorskip("tokenizers")
llama_cpp = pytest.importorskip("llama_cpp")

from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, trainers  # noqa: E402
from tokenizers import pre_tokenizers as pre  # noqa: E402

CORPUS = [
    "The quick brown fox jumps over the lazy dog; I've told it 12345 times, and we'll see.\n\n",
    "Ein Pfund Mehl, 3 Eier, 250 ml Milch: wir haben's!  нещо на Български, 我想在apple工作\t\t🚀🚀",
] * 4
PROBES = [
    "The quick brown fox",
    " Hello  world\n\n\nI'VE 1234567 times",
    "нещо на 我想 🚀 😶\u200d🌫️ \x00\x7f",
    "tabs\t\tand   spaces   ",
    "a<|end|>b <|end|> c",
]
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
VOCABULARY = 512


def split(regex):
    return pre.Sequence([pre.Split(Regex(regex), "isolated"), pre.ByteLevel(add_prefix_space=False, use_regex=False)])


BYTE_LEVEL = {
    "gpt-2": (pre.ByteLevel(add_prefix_space=False), False),
    "smollm": (pre.Sequence([pre.Digits(individual_digits=True), pre.ByteLevel(add_prefix_space=False)]), False),
    "llama-bpe": (split(LLAMA3), True),
    "smaug-bpe": (split(LLAMA3), False),
    "qwen2": (split(LLAMA3.replace("{1,3}", "")), False),
}


def byte_level(pre_tokenizer, ignore_merges=False):
    tokenizer = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    tokenizer.pre_tokenizer = pre_tokenizer
    alphabet = pre.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=480, show_progress=False, initial_alphabet=alphabet)
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.add_special_tokens([AddedToken("<|end|>", special=True, normalized=False)])
    return tokenizer


def sentencepiece():
    """As Llama 2's: the merges are all pairs whose union is a token, by the token's rank."""
    text = "▁" + " ".join(CORPUS).replace(" ", "▁").replace("\n", "").replace("\t", "")
    words = [f"▁{word}" for word in text.split("▁") if word]
    pieces = sorted({word[a:b] for word in words for a in range(len(word)) for b in range(a + 2, len(word) + 1)})
    pieces = sorted(pieces, key=lambda piece: -sum(word.count(piece) for word in words) * len(piece))[:120]
    characters = sorted(set("".join(words)))[:120]
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *pieces, *characters]
    vocabulary = {token: number for number, token in enumerate(dict.fromkeys(tokens))}
    merges = [
        (piece[:cut], piece[cut:])
        for piece in pieces
        for cut in range(1, len(piece))
        if piece[:cut] in vocabulary and piece[cut:] in vocabulary
    ]
    model = models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in ("<s>", "</s>")])
    return tokenizer


def convert(tmp_path, tokenizer, **settings):
    model = write_tiny_hf(tmp_path / "model", layers=1, vocabulary=VOCABULARY)
    tokenizer.save(str(model / "tokenizer.json"))
    (model / "tokenizer_config.json").write_text(json.dumps(settings))
    write_model_file(open_model(model), tmp_path / "model.gguf", Quantize.Q8_0, LocalSource(model))
    return llama_cpp.Llama(str(tmp_path / "model.gguf"), vocab_only=True, verbose=False)


@pytest.mark.parametrize("name", BYTE_LEVEL)
def test_byte_level_tokenizers(tmp_path, name):
    tokenizer = byte_level(*BYTE_LEVEL[name])
    stock = convert(tmp_path, tokenizer, eos_token="<|end|>", chat_template=CHAT_TEMPLATE)
    assert stock.metadata["tokenizer.ggml.pre"] == name
    assert stock.metadata["tokenizer.chat_template"] == CHAT_TEMPLATE
    assert stock.token_eos() == tokenizer.token_to_id("<|end|>")
    for probe in PROBES:
        expected = tokenizer.encode(probe, add_special_tokens=False).ids
        assert stock.tokenize(probe.encode(), add_bos=False, special=True) == expected
        assert stock.detokenize(expected, special=True).decode() == probe
    stock.close()


def test_sentencepiece_tokenizers(tmp_path):
    tokenizer = sentencepiece()
    stock = convert(tmp_path, tokenizer, bos_token="<s>", eos_token={"content": "</s>"}, add_bos_token=True)
    assert stock.metadata["tokenizer.ggml.model"] == "llama"
    assert (stock.token_bos(), stock.token_eos()) == (1, 2)
    for probe in PROBES:
        expected = tokenizer.encode(probe, add_special_tokens=False).ids
        assert stock.tokenize(probe.encode(), add_bos=False, special=True) == expected
        assert stock.tokenize(probe.encode(), add_bos=True, special=True) == [1, *expected]
    stock.close()


def test_a_chat_template_may_have_a_file_of_its_own(tmp_path):
    model = write_tiny_hf(tmp_path / "model", layers=1, vocabulary=VOCABULARY)
    byte_level(*BYTE_LEVEL["gpt-2"]).save(str(model / "tokenizer.json"))
    (model / "tokenizer_config.json").write_text("{}")
    (model / "chat_template.jinja").write_text(CHAT_TEMPLATE)
    assert tokenizer_entries(model, VOCABULARY)["tokenizer.chat_template"] == (["STRING"], CHAT_TEMPLATE)


def entries_of(tmp_path, tokenizer, vocabulary=VOCABULARY):
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    return tokenizer_entries(tmp_path, vocabulary)


def test_ids_without_a_token_are_unused(tmp_path):
    entries = entries_of(tmp_path, byte_level(*BYTE_LEVEL["gpt-2"]))
    tokens, types = entries["tokenizer.ggml.tokens"][1], entries["tokenizer.ggml.token_type"][1]
    assert len(tokens) == len(types) == VOCABULARY
    assert tokens[-1] == f"[PAD{VOCABULARY - 1}]"
    assert types[-1] == 5
    assert types[tokens.index("<|end|>")] == 3


def test_a_tokenizer_larger_than_the_model_is_refused(tmp_path):
    with pytest.raises(ModelError, match=r"tokenizer\.json has the token 300, beyond the model's 300"):
        entries_of(tmp_path, byte_level(*BYTE_LEVEL["gpt-2"]), 300)


@pytest.mark.parametrize(
    "pre_tokenizer",
    [pre.Whitespace(), pre.ByteLevel(add_prefix_space=True), split(r"\w+|\W+"), pre.Digits(individual_digits=True)],
)
def test_an_unknown_splitting_is_refused(tmp_path, pre_tokenizer):
    with pytest.raises(ModelError, match=r"tokenizer\.json splits text in a way of its own, which llama\.cpp"):
        entries_of(tmp_path, byte_level(pre_tokenizer))


def test_an_unknown_normalizer_is_refused(tmp_path):
    lower = byte_level(*BYTE_LEVEL["gpt-2"])
    lower.normalizer = normalizers.Lowercase()
    with pytest.raises(ModelError, match="splits text in a way of its own"):
        entries_of(tmp_path, lower)
    strip = sentencepiece()
    strip.normalizer = normalizers.Strip()
    with pytest.raises(ModelError, match=r"tokenizer\.json has the step Strip, which llama\.cpp"):
        entries_of(tmp_path, strip)


def test_another_kind_of_tokenizer_is_refused(tmp_path):
    with pytest.raises(ModelError, match=r"tokenizer\.json is of the type WordPiece"):
        entries_of(tmp_path, Tokenizer(models.WordPiece({"a": 0, "[UNK]": 1})))


def test_a_missing_tokenizer_is_refused_before_anything_is_written(tmp_path):
    model = write_tiny_hf(tmp_path / "model", layers=1)
    with pytest.raises(ModelError, match=r"model has no tokenizer: fetch tokenizer\.json"):
        write_model_file(open_model(model), tmp_path / "model.gguf", Quantize.Q8_0, LocalSource(model))
    assert not list(tmp_path.glob("model.gguf*"))


def test_a_broken_tokenizer_config_is_refused(tmp_path):
    (tmp_path / "tokenizer_config.json").write_text("{")
    with pytest.raises(ModelError, match=r"tokenizer_config\.json beside it, is broken"):
        entries_of(tmp_path, byte_level(*BYTE_LEVEL["gpt-2"]))


def test_an_existing_file_is_not_overwritten(tmp_path):
    model = write_tiny_hf(tmp_path / "model", layers=1)
    (tmp_path / "model.gguf").write_text("precious")
    with pytest.raises(ModelError, match=r"model\.gguf already exists: remove it, or choose another name"):
        write_model_file(open_model(model), tmp_path / "model.gguf", Quantize.Q8_0, LocalSource(model))
    assert (tmp_path / "model.gguf").read_text() == "precious"


def test_a_gguf_model_needs_no_conversion(tmp_path):
    manifest = open_model(write_tiny_gguf(tmp_path / "tiny.gguf"))
    with pytest.raises(ModelError, match="tiny is a GGUF file already"):
        write_model_file(manifest, tmp_path / "copy.gguf", Quantize.Q8_0, LocalSource(tmp_path))


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
def test_json_without_a_bottom_is_refused(tmp_path, name):
    write_tiny_tokenizer(tmp_path)
    (tmp_path / name).write_text("[" * 100_000)
    with pytest.raises(ModelError) as caught:
        tokenizer_entries(tmp_path, 320)
    check_sentence(caught.value, tmp_path)


odd: st.SearchStrategy[object] = st.sampled_from(
    [None, 0, -1, 1 << 70, 1.5, True, "", "x", "\n", [], [1], [[]], ["a b"], [None], {}, {"a": "b"}]
)


@given(
    st.dictionaries(st.sampled_from(["model", "added_tokens", "normalizer", "pre_tokenizer"]), odd, max_size=2),
    st.dictionaries(
        st.sampled_from(["vocab", "merges", "byte_fallback", "unk_token", "type", "ignore_merges"]), odd, max_size=2
    ),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_an_odd_tokenizer_is_written_or_refused_with_a_sentence(tmp_path, changes, of_model):
    if not (tmp_path / "whole.json").exists():
        write_tiny_tokenizer(tmp_path)
        (tmp_path / "tokenizer.json").rename(tmp_path / "whole.json")
    tokenizer = json.loads((tmp_path / "whole.json").read_text())
    changed = tokenizer | {"model": tokenizer["model"] | of_model} | changes
    (tmp_path / "tokenizer.json").write_text(json.dumps(changed))
    try:
        tokenizer_entries(tmp_path, 320)
    except ModelError as error:
        check_sentence(error, tmp_path)
