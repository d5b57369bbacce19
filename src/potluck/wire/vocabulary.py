"""The bytes for which each token of a vocabulary stands, on the wire, and the comparison of two vocabularies."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from potluck.errors import ModelError, WireError

_decoder = msgspec.msgpack.Decoder(list[bytes])
_SHOWN = 40
"""The most bytes of a token that are shown."""
_encoder = msgspec.msgpack.Encoder()


def packed(pieces: Sequence[bytes]) -> bytes:
    """A vocabulary as the payload of a frame."""
    return _encoder.encode(pieces)


def unpacked(payload: bytes | memoryview) -> list[bytes]:
    """The vocabulary in a payload. Raises WireError when it holds something else."""
    try:
        return _decoder.decode(payload)
    except msgspec.MsgspecError as error:
        raise WireError("A vocabulary came that cannot be read.") from error


def first_difference(one: Sequence[bytes], other: Sequence[bytes]) -> int | None:
    """The first id that stands for other bytes in the one than in the other, control tokens included; None if there is
    none.

    Ids that only one of them has do not count, and neither do those for which one has no text: vocabularies are padded
    with such.
    """
    pairs = enumerate(zip(one, other, strict=False))
    return next((token for token, (a, b) in pairs if a and b and a != b), None)


def check_vocabulary(small: str, pieces: Sequence[bytes], model: str, served: Sequence[bytes]) -> None:
    """Raises ModelError when the model of the name `small` cannot guess for the other, because their tokens differ."""
    token = first_difference(pieces, served)
    if token is not None:
        raise ModelError(
            f"{small} cannot guess for {model}, because their vocabularies differ: token {token} is "
            f"{_shown(pieces[token])} for the one and {_shown(served[token])} for the other."
        )


def _shown(piece: bytes) -> str:
    return repr(piece[:_SHOWN].decode("utf-8", "backslashreplace"))
