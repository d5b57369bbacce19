"""Reads a SentencePiece model, the `tokenizer.model` of older models, and says it in the words of a tokenizer.json.

The file is a small message of Protocol Buffers, of which only the fields below are read.
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Iterator
from itertools import count, islice
from typing import Any, NamedTuple

_SPACE = "▁"
_UNIGRAM, _BPE = 1, 2
_UNKNOWN, _CONTROL, _USER_DEFINED = 2, 3, 4
_LONGEST_PIECE = 512
"""Trainers stop at some 16 characters; what is longer would take very long to take apart."""


class Piece(NamedTuple):
    text: str
    score: float
    kind: int


class SentencePieceModel(NamedTuple):
    """What is read of the file. begin: the id of the token that begins a text; -1 if there is none."""

    pieces: list[Piece]
    kind: int
    byte_fallback: bool
    unknown: int
    begin: int
    charsmap: bytes
    adds_space: bool
    joins_spaces: bool


def parse(data: bytes) -> SentencePieceModel:
    """Raises ValueError when the bytes are no such model."""
    fields = list(_fields(data))
    pieces = [_piece(value) for number, value in fields if number == 1 and isinstance(value, bytes)]
    trainer, normalizer = (dict(_fields(_last(fields, number))) for number in (2, 3))
    charsmap = normalizer.get(2, b"")
    if not pieces or not isinstance(charsmap, bytes):
        raise ValueError("it holds no pieces")
    return SentencePieceModel(
        pieces,
        kind=_number(trainer, 3, _UNIGRAM),
        byte_fallback=bool(_number(trainer, 35, 0)),
        unknown=_number(trainer, 40, 0),
        begin=_number(trainer, 41, 1),
        charsmap=charsmap,
        adds_space=bool(_number(normalizer, 3, 1)),
        joins_spaces=bool(_number(normalizer, 4, 1)),
    )


def _last(fields: list[tuple[int, int | bytes]], number: int) -> bytes:
    found = [value for each, value in fields if each == number and isinstance(value, bytes)]
    return found[-1] if found else b""


def _number(fields: dict[int, int | bytes], number: int, default: int) -> int:
    value = fields.get(number, default)
    if not isinstance(value, int):
        raise ValueError("a number is missing")
    return value - (1 << 64) if value >> 63 else value  # negative ones have 64 bits


def _piece(data: bytes) -> Piece:
    fields = dict(_fields(data))
    text, score = fields.get(1, b""), fields.get(2, bytes(4))
    if not isinstance(text, bytes) or not isinstance(score, bytes) or len(text) > _LONGEST_PIECE:
        raise ValueError("a piece is broken")
    return Piece(text.decode(), struct.unpack("<f", score)[0], _number(fields, 3, 1))


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """The numbers and values of a message's fields."""
    place = 0
    while place < len(data):
        key, place = _varint(data, place)
        match key & 7:
            case 0:
                value, place = _varint(data, place)
                yield key >> 3, value
                continue
            case 1:
                size = 8
            case 2:
                size, place = _varint(data, place)
            case 5:
                size = 4
            case _:
                raise ValueError("a field is of an unknown kind")
        if place + size > len(data):
            raise ValueError("it is cut off")
        yield key >> 3, data[place : place + size]
        place += size


def _varint(data: bytes, place: int) -> tuple[int, int]:
    value = 0
    for shift, byte in zip(range(0, 70, 7), islice(data, place, None), strict=False):
        value |= (byte & 0x7F) << shift
        place += 1
        if byte < 0x80:
            return value, place
    raise ValueError("a number is cut off")


def tokenizer_state(model: SentencePieceModel, *, legacy: bool, begins: bool) -> dict[str, Any]:
    """The content of a tokenizer.json that tokenizes in the same way.

    legacy: a space is added before every stretch of plain text, not only before the first. begins: a text begins with
    the token for that. Raises ValueError for a model of another algorithm.
    """
    pieces = model.pieces
    adds_space, everywhere = model.adds_space, legacy or not model.adds_space
    normalizers = [
        *([_precompiled(model.charsmap)] if model.charsmap else []),
        *(_JOINING if model.joins_spaces else []),
        *([{"type": "Prepend", "prepend": _SPACE}] if adds_space and legacy else []),
        *([_replace(" ", _SPACE)] if everywhere else []),
    ]
    metaspace = {"type": "Metaspace", "replacement": _SPACE, "prepend_scheme": "first", "split": False}
    stripped = [{"type": "Strip", "content": " ", "start": 1, "stop": 0}] if adds_space else []
    decoders = [_replace(_SPACE, " "), {"type": "ByteFallback"}, {"type": "Fuse"}, *stripped]
    return {
        "version": "1.0",
        "added_tokens": [
            _added(number, piece, normalized=not adds_space)
            for number, piece in enumerate(pieces)
            if piece.kind in (_CONTROL, _USER_DEFINED)
        ],
        "normalizer": {"type": "Sequence", "normalizers": normalizers} if normalizers else None,
        "pre_tokenizer": None if everywhere else metaspace,
        "post_processor": _beginning(model) if begins and 0 <= model.begin < len(pieces) else None,
        "decoder": {"type": "Sequence", "decoders": decoders},
        "model": _model(model),
    }


_JOINING = [
    {"type": "Strip", "strip_left": True, "strip_right": True},
    {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "},
]


def _precompiled(charsmap: bytes) -> dict[str, Any]:
    return {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(charsmap).decode()}


def _replace(old: str, new: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": {"String": old}, "content": new}


def _added(number: int, piece: Piece, *, normalized: bool) -> dict[str, Any]:
    """normalized: whether what its makers added, such as Gemma's `▁▁`, is found where spaces are `▁` already."""
    special = piece.kind == _CONTROL
    kinds = dict.fromkeys(("single_word", "lstrip", "rstrip"), False)
    kinds |= {"normalized": normalized and not special, "special": special}
    return {"id": number, "content": piece.text, **kinds}


def _beginning(model: SentencePieceModel) -> dict[str, Any]:
    text = model.pieces[model.begin].text
    token, sequence = {"SpecialToken": {"id": text, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}
    other = {"Sequence": {"id": "B", "type_id": 1}}
    return {
        "type": "TemplateProcessing",
        "single": [token, sequence],
        "pair": [token, sequence, other],
        "special_tokens": {text: {"id": text, "ids": [model.begin], "tokens": [text]}},
    }


def _model(model: SentencePieceModel) -> dict[str, Any]:
    pieces, unknown = model.pieces, model.unknown
    if not 0 <= unknown < len(pieces):
        raise ValueError("it names no unknown token")
    if model.kind == _UNIGRAM:
        vocabulary = [[piece.text, piece.score] for piece in pieces]
        return {"type": "Unigram", "unk_id": unknown, "vocab": vocabulary, "byte_fallback": model.byte_fallback}
    if model.kind != _BPE:
        raise ValueError("it is neither BPE nor Unigram")
    return {
        "type": "BPE",
        "unk_token": pieces[unknown].text,
        "fuse_unk": True,
        "byte_fallback": model.byte_fallback,
        "vocab": dict(zip((piece.text for piece in pieces), count(), strict=False)),
        "merges": _merges(pieces),
    }


def _merges(pieces: list[Piece]) -> list[list[str]]:
    """The pairs that make pieces, those of the highest score first: SentencePiece keeps scores, and no merges."""
    ids = {piece.text: number for number, piece in enumerate(pieces)}
    found = [
        (-piece.score, ids[piece.text[:cut]], ids[piece.text[cut:]], cut, piece.text)
        for piece in pieces
        if piece.kind not in (_UNKNOWN, _CONTROL, _USER_DEFINED)
        for cut in range(1, len(piece.text))
        if piece.text[:cut] in ids and piece.text[cut:] in ids
    ]
    return [[text[:cut], text[cut:]] for _, _, _, cut, text in sorted(found)]
