"""Reads the tokenizer of a Hugging Face directory as a tokenizer.json, whichever files it comes in.

Older directories have a SentencePiece model or a vocabulary with merges instead, and say the rest in settings.
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Struct

from potluck.errors import ModelError
from potluck.models import sentencepiece
from potluck.models.files import MOST_VALUES, Files, existing_size, read_json, read_whole, shown

FAST, PIECES, VOCABULARY, MERGES = "tokenizer.json", "tokenizer.model", "vocab.json", "merges.txt"

_LONGEST = 64 << 20
"""The most bytes of a file of pieces or merges. The largest have some 5 MB."""

_QWEN2_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_KINDS = {"GPT2Tokenizer": "gpt2", "CodeGenTokenizer": "gpt2", "Qwen2Tokenizer": "qwen2"}
_KINDS_BY_MODEL = {
    **dict.fromkeys(("gpt2", "gpt_bigcode", "opt", "gptj", "gpt_neo"), "gpt2"),
    **dict.fromkeys(("qwen2", "qwen2_moe", "qwen3", "qwen3_moe"), "qwen2"),
}
"""How text is split into words, by the class that tokenizer_config.json names, or else by the model's type."""


class _Text(Struct, frozen=True):
    """A token as an object."""

    content: str
    special: bool = False
    lstrip: bool = False
    rstrip: bool = False


_Token = str | _Text | None


class _Settings(Struct, frozen=True):
    """What is read of tokenizer_config.json and special_tokens_map.json."""

    tokenizer_class: str | None = None
    legacy: bool | None = None
    add_bos_token: bool | None = None
    add_prefix_space: bool | None = None
    added_tokens_decoder: dict[str, _Text] = {}
    bos_token: _Token = None
    eos_token: _Token = None
    unk_token: _Token = None
    pad_token: _Token = None
    additional_special_tokens: list[_Token] | None = None


def tokenizer_file(files: Files) -> str:
    """The name of the file that the tokenizer is read from. Raises ModelError when there is none."""
    for file in (FAST, PIECES, VOCABULARY):
        if files.size(file) is not None:
            return file
    raise ModelError(f"{files.location} has no tokenizer: fetch {FAST}, {PIECES}, or {VOCABULARY} and {MERGES}.")


def tokenizer_json(files: Files) -> dict[str, Any]:
    """The tokenizer as the content of a tokenizer.json. Raises ModelError when it cannot be read or said so."""
    match tokenizer_file(files):
        case "tokenizer.model":
            state = _of_pieces(files)
        case "vocab.json":
            state = _of_merges(files)
        case _:
            return read_json(files, FAST)
    return state | {"added_tokens": _added_tokens(files, state)}


def _settings(files: Files, file: str) -> _Settings:
    if files.size(file) is None:
        return _Settings()
    try:
        return msgspec.convert(read_json(files, file), _Settings)
    except (msgspec.ValidationError, RecursionError) as error:
        raise ModelError(f"{files.location}/{file} is broken ({error}); fetch it again.") from error


def _of_pieces(files: Files) -> dict[str, Any]:
    told = _settings(files, "tokenizer_config.json")
    try:
        model = sentencepiece.parse(_small(files, PIECES))
        if told.add_prefix_space is not None:
            model = model._replace(adds_space=told.add_prefix_space)
        return sentencepiece.tokenizer_state(model, legacy=told.legacy is True, begins=told.add_bos_token is not False)
    except ValueError as error:
        raise ModelError(
            f"{files.location}/{PIECES} is no SentencePiece model ({shown(error)}); fetch it again."
        ) from error


def _of_merges(files: Files) -> dict[str, Any]:
    told, kind = _settings(files, "tokenizer_config.json"), _kind(files)
    vocabulary = read_json(files, VOCABULARY)
    if not all(type(number) is int and 0 <= number < MOST_VALUES for number in vocabulary.values()):
        raise ModelError(f"{files.location}/{VOCABULARY} has ids that are no numbers of tokens; fetch it again.")
    bytewise = {"type": "ByteLevel", "add_prefix_space": bool(told.add_prefix_space), "trim_offsets": False}
    words: dict[str, Any] = {
        "type": "Split",
        "pattern": {"Regex": _QWEN2_WORDS},
        "behavior": "Isolated",
        "invert": False,
    }
    steps = [words, bytewise | {"use_regex": False}] if kind == "qwen2" else [bytewise | {"use_regex": True}]
    return {
        "version": "1.0",
        "normalizer": {"type": "NFC"} if kind == "qwen2" else None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": steps},
        "decoder": bytewise | {"use_regex": True},
        "model": {"type": "BPE", "vocab": vocabulary, "merges": _merges(files)},
    }


def _kind(files: Files) -> str:
    """The way in which text is split into words. Raises ModelError when nobody says which."""
    name = _settings(files, "tokenizer_config.json").tokenizer_class
    if name is not None:
        kind = _KINDS.get(name.removesuffix("Fast"))
    else:
        told = read_json(files, "config.json").get("model_type") if files.size("config.json") is not None else None
        kind = _KINDS_BY_MODEL.get(told) if isinstance(told, str) else None
    if kind is None:
        what = shown(name) if name else "of a class that nothing names"
        raise ModelError(
            f"{files.location} has the tokenizer {what} without a {FAST}, so nobody can say how it splits text: "
            f"save it as {FAST} with transformers."
        )
    return kind


def _merges(files: Files) -> list[list[str]]:
    try:
        lines = _small(files, MERGES).decode().split("\n")
    except UnicodeDecodeError as error:
        raise ModelError(f"{files.location}/{MERGES} is not a text in UTF-8; fetch it again.") from error
    pairs = [line.rstrip("\r").split(" ") for line in lines[lines[0].startswith("#version") :] if line.strip()]
    if not all(len(pair) == 2 for pair in pairs):
        raise ModelError(f"{files.location}/{MERGES} has a line that is not a pair of tokens; fetch it again.")
    return pairs


def _small(files: Files, file: str) -> bytes:
    if existing_size(files, file) > _LONGEST:
        raise ModelError(f"{files.location}/{file} has more than {_LONGEST >> 20} MiB; fetch it again.")
    return read_whole(files, file)


def _added_tokens(files: Files, state: dict[str, Any]) -> list[dict[str, Any]]:
    """The tokens that are found in a text before it is split, in the order of their ids.

    The library numbers those beyond the vocabulary one after the other, so gaps are filled.
    """
    known = _vocabulary(state["model"])
    found: dict[str, dict[str, Any]] = {token["content"]: token for token in state.get("added_tokens", [])}
    for content, number, told in _named(files):
        number = known.get(content, found.get(content, {}).get("id")) if number is None else number
        if number is not None:
            before = found.get(content, {"special": False})
            found[content] = _token(number, told, special=told.special or before["special"])
    ids = {token["id"] for token in found.values()} | set(known.values())
    if max(ids, default=0) >= MOST_VALUES:
        raise ModelError(f"{files.location} gives a token the id {max(ids)}, which is beyond all bounds.")
    gaps = set(range(len(known), max(ids, default=0))) - ids
    filled = [*found.values(), *(_token(gap, _Text(f"[PAD{gap}]"), special=True) for gap in gaps)]
    return sorted(filled, key=lambda token: token["id"])


def _vocabulary(model: dict[str, Any]) -> dict[str, int]:
    vocabulary = model["vocab"]
    return vocabulary if isinstance(vocabulary, dict) else {text: number for number, (text, _) in enumerate(vocabulary)}


def _token(number: int, told: _Text, *, special: bool) -> dict[str, Any]:
    plain = {"single_word": False, "lstrip": told.lstrip, "rstrip": told.rstrip, "normalized": False}
    return {"id": number, "content": told.content, **plain, "special": special}


def _named(files: Files) -> list[tuple[str, int | None, _Text]]:
    """The tokens that the settings name, with their ids where these are given."""
    added = read_json(files, "added_tokens.json") if files.size("added_tokens.json") is not None else {}
    named: list[tuple[str, int | None, _Text]] = [
        (content, number, _Text(content)) for content, number in added.items() if type(number) is int and number >= 0
    ]
    for file in ("special_tokens_map.json", "tokenizer_config.json"):
        told = _settings(files, file)
        decoder = told.added_tokens_decoder.items()
        named += [(token.content, int(number), token) for number, token in decoder if number.isdecimal()]
        specials = [told.bos_token, told.eos_token, told.unk_token, told.pad_token]
        for token in [*specials, *(told.additional_special_tokens or [])]:
            content = token.content if isinstance(token, _Text) else token
            if content:
                named.append((content, None, _Text(content, special=True)))
    return named
