"""The hashing of byte ranges, whose number a stranger decides."""

import hashlib

import pytest

from potluck.errors import ModelError
from potluck.models import files
from potluck.models.files import LocalSource, sha256_each

RANGES = [(40, 13), (0, 7), (7, 0), (7, 20), (27, 1), (60, 4)]  # in no order; some touch, one is empty


class Counted(LocalSource):
    """Keeps what it streams: offset and number of bytes."""

    def __init__(self, folder):
        super().__init__(folder)
        self.streamed = []

    def stream(self, file, offset, nbytes):
        self.streamed.append((offset, nbytes))
        return super().stream(file, offset, nbytes)


@pytest.mark.parametrize("chunk", [1, 5, 1000])
def test_each_range_has_its_digest_and_ranges_that_touch_are_streamed_as_one(tmp_path, monkeypatch, chunk):
    monkeypatch.setattr(files, "CHUNK", chunk)
    data = bytes(range(64))
    (tmp_path / "weights").write_bytes(data)
    source = Counted(tmp_path)
    arrived: list[int] = []
    digests = sha256_each(source, "weights", RANGES, arrived.append)
    assert digests == {(at, size): hashlib.sha256(data[at : at + size]).hexdigest() for at, size in RANGES}
    assert source.streamed == [(0, 28), (40, 13), (60, 4)]
    assert sum(arrived) == 45


def test_a_file_that_ends_before_the_ranges_is_truncated(tmp_path):
    (tmp_path / "weights").write_bytes(bytes(63))
    with pytest.raises(ModelError, match="weights is truncated"):
        sha256_each(LocalSource(tmp_path), "weights", RANGES, lambda _: None)
