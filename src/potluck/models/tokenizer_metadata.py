"""Turns a Hugging Face tokenizer into GGUF metadata, so that stock llama.cpp tokenizes as the model was trained.

llama.cpp knows two kinds that our families use. "gpt2" is byte-level BPE, whose way of splitting text into words has a
name; the names are found here by the splitting rules themselves. "llama" is SentencePiece, which merges by score, not
by rank.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gguf import Keys, SpecialVocab, TokenType

from potluck.errors import ModelError
from potluck.models.chat_templates import DEFAULT, chat_templates
from potluck.models.fields import Entries
from potluck.models.files import LocalSource, shown
from potluck.models.tokenizer_files import tokenizer_file, tokenizer_json

_WORDS = "GPT-2's words"
_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"

_LLAMA3 = rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}|{_REST}"
_QWEN2 = rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}|{_REST}"
_TEKKEN = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*|\p{{N}}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

_SPLITTINGS: dict[tuple[tuple[str, ...], bool], str] = {
    ((_WORDS,), False): "gpt-2",
    (("digits", _WORDS), False): "smollm",
    ((_LLAMA3,), True): "llama-bpe",
    ((_LLAMA3,), False): "smaug-bpe",
    ((_QWEN2,), False): "qwen2",
    ((_TEKKEN,), True): "tekken",
}
"""llama.cpp's name for the steps that split text, and for whether a word that is a token skips the merges."""


def tokenizer_entries(folder: Path, vocabulary: int) -> Entries:
    """The GGUF metadata of the tokenizer in this folder: tokens, merges or scores, special tokens, chat template.

    vocabulary: rows of the embedding; ids without a token become unused ones.
    Raises ModelError when there is no tokenizer, or one that llama.cpp cannot express.
    """
    files = LocalSource(folder)
    where = str(folder / tokenizer_file(files))
    try:
        return _entries(where, files, tokenizer_json(files), vocabulary)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        what = shown(error)
        raise ModelError(f"{where}, or tokenizer_config.json beside it, is broken: {what}.") from error


def _entries(where: str, files: LocalSource, tokenizer: dict[str, Any], vocabulary: int) -> Entries:
    model = tokenizer.get("model") or {}
    if model.get("type") != "BPE" or not model.get("vocab") or not model.get("merges"):
        raise _unknown(where, f"is of the type {shown(model.get('type'))}, or lacks its vocabulary or merges")
    special = SpecialVocab(files.folder, load_merges=True, n_vocab=vocabulary)
    tokens, types = _tokens(where, tokenizer, vocabulary)
    kind = _sentencepiece(where, tokenizer, tokens) if model.get("byte_fallback") else _byte_level(where, tokenizer)
    if not model.get("byte_fallback"):
        kind[Keys.Tokenizer.MERGES] = (["ARRAY", "STRING"], special.merges)
    return {
        **kind,
        Keys.Tokenizer.LIST: (["ARRAY", "STRING"], tokens),
        Keys.Tokenizer.TOKEN_TYPE: (["ARRAY", "INT32"], types),
        **_special(special, tokenizer.get("post_processor"), chat_templates(files)),
    }


def _unknown(where: str, what: str) -> ModelError:
    return ModelError(f"{where} {what}, which llama.cpp's tokenizers cannot express: serve the directory itself.")


def _tokens(where: str, tokenizer: dict[str, Any], vocabulary: int) -> tuple[list[str], list[int]]:
    """Every token by its id, with its type."""
    model = tokenizer["model"]
    tokens = [f"[PAD{token_id}]" for token_id in range(vocabulary)]
    types = [int(TokenType.UNUSED)] * vocabulary

    def put(token: str, token_id: int, kind: TokenType) -> None:
        if not 0 <= token_id < vocabulary:
            raise ModelError(
                f"{where} has the token {shown(token_id)}, beyond the model's {vocabulary}; fetch both again."
            )
        tokens[token_id], types[token_id] = token, int(kind)

    for token, token_id in model["vocab"].items():
        is_byte = model.get("byte_fallback") and len(token) == 6 and token.startswith("<0x")
        put(token, token_id, TokenType.BYTE if is_byte else TokenType.NORMAL)
    for added in tokenizer.get("added_tokens") or []:
        special = added.get("special") or (added["content"].startswith("<|") and added["content"].endswith("|>"))
        put(added["content"], added["id"], TokenType.CONTROL if special else TokenType.USER_DEFINED)
    if model.get("byte_fallback") and model.get("unk_token") in model["vocab"]:
        put(model["unk_token"], model["vocab"][model["unk_token"]], TokenType.UNKNOWN)
    return tokens, types


def _byte_level(where: str, tokenizer: dict[str, Any]) -> Entries:
    steps = _steps(tokenizer.get("pre_tokenizer"))
    ignore_merges = bool(tokenizer["model"].get("ignore_merges"))
    name = _SPLITTINGS.get((tuple(steps), ignore_merges)) if steps else None
    if name is None or [step["type"] for step in _flat(tokenizer.get("normalizer"))] not in ([], ["NFC"]):
        raise _unknown(where, "splits text in a way of its own")
    return {
        Keys.Tokenizer.MODEL: (["STRING"], "gpt2"),
        Keys.Tokenizer.PRE: (["STRING"], name),
    }


def _flat(step: dict[str, Any] | None) -> list[dict[str, Any]]:
    """The parts of a sequence; none for null."""
    if step is None:
        return []
    parts = step.get("pretokenizers") or step.get("normalizers") or []
    return [leaf for part in parts for leaf in _flat(part)] if step.get("type") == "Sequence" else [step]


def _steps(pre_tokenizer: dict[str, Any] | None) -> list[str] | None:
    """The steps that split text into words, in order; None if a step is of unknown kind or nothing maps the bytes."""
    flat, steps = _flat(pre_tokenizer), list[str]()
    for step in flat:
        match step:
            case {"type": "ByteLevel", "add_prefix_space": False}:
                steps += [_WORDS] if step.get("use_regex", True) else []
            case {"type": "Digits", "individual_digits": True}:
                steps.append("digits")
            case {"type": "Split", "pattern": {"Regex": str(regex)}}:
                steps.append(regex)
            case _:
                return None
    return steps if any(step["type"] == "ByteLevel" for step in flat) else None


def _sentencepiece(where: str, tokenizer: dict[str, Any], tokens: list[str]) -> Entries:
    return {
        Keys.Tokenizer.MODEL: (["STRING"], "llama"),
        Keys.Tokenizer.PRE: (["STRING"], "default"),
        Keys.Tokenizer.SCORES: (["ARRAY", "FLOAT32"], _scores(tokenizer["model"].get("merges") or [], tokens)),
        Keys.Tokenizer.ADD_PREFIX: (["BOOL"], _adds_space(where, tokenizer)),
    }


def _scores(merges: list[Any], tokens: list[str]) -> list[float]:
    """The scores of the tokens. A token that is merged earlier has a higher score; one that never is needs none."""
    ranks: dict[str, int] = {}
    for rank, merge in enumerate(merges):
        parts = merge.split(" ") if isinstance(merge, str) else merge
        ranks.setdefault("".join(parts), rank)
    return [-float(ranks.get(token, len(merges))) for token in tokens]


def _adds_space(where: str, tokenizer: dict[str, Any]) -> bool:
    """Whether the tokenizer adds a space at the beginning of a text."""
    adds = False
    for step in _flat(tokenizer.get("normalizer")) + _flat(tokenizer.get("pre_tokenizer")):
        match step:
            case {"type": "Prepend", "prepend": "▁"}:
                adds = True
            case {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}:
                pass
            case {"type": "Split", "pattern": {"String": " "}}:  # Gemma's, which finds no more spaces
                pass
            case {"type": "Metaspace", "replacement": "▁"}:
                adds = adds or step.get("prepend_scheme", "always") != "never"
            case _:
                raise _unknown(where, f"has the step {shown(step.get('type'))}")
    return adds


def _special(special: SpecialVocab, processor: dict[str, Any] | None, templates: dict[str, str]) -> Entries:
    """processor: the step that adds tokens to a text, which begins with one of them or with the text."""
    keys = Keys.Tokenizer
    first = (processor or {}).get("single") or [{}]
    entries: Entries = {keys.ADD_BOS: (["BOOL"], "SpecialToken" in first[0])}  # llama.cpp's default depends on the kind
    for name, token_id in special.special_token_ids.items():
        if key := getattr(keys, f"{name.upper()}_ID", None):
            entries[key] = (["UINT32"], token_id)
    for name, value in special.add_special_token.items():
        if key := getattr(keys, f"ADD_{name.upper()}", None):
            entries[key] = (["BOOL"], bool(value))
    for name, template in templates.items():
        entries[keys.CHAT_TEMPLATE if name == DEFAULT else keys.CHAT_TEMPLATE_N.format(name=name)] = (
            ["STRING"],
            template,
        )
    if others := sorted(templates.keys() - {DEFAULT}):
        entries[keys.CHAT_TEMPLATES] = (["ARRAY", "STRING"], others)
    return entries
