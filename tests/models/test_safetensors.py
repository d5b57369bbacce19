"""The index of a safetensors file, and every way in which it can be broken."""

import json

import numpy as np
import pytest

from kit.tiny_hf import write_safetensors
from potluck.errors import ModelError
from potluck.models.files import LocalSource
from potluck.models.safetensors import read_safetensors

TENSORS: dict[str, np.ndarray] = {
    "a.weight": np.arange(12, dtype=np.float32).reshape(3, 4),
    "b": np.ones(5, np.float16),
}


@pytest.fixture
def path(tmp_path):
    write_safetensors(tmp_path / "model.safetensors", TENSORS)
    return tmp_path / "model.safetensors"


def read(path):
    return read_safetensors(LocalSource(path.parent), path.name)


def test_each_tensor_is_a_byte_range_of_the_file(path):
    stored = {item.name: item for item in read(path)}
    assert stored.keys() == TENSORS.keys()
    for name, values in TENSORS.items():
        item = stored[name]
        assert (item.shape, item.nbytes) == (values.shape, values.nbytes)
        assert path.read_bytes()[item.offset : item.offset + item.nbytes] == values.tobytes()
    assert [stored[name].dtype for name in TENSORS] == ["F32", "F16"]


def test_only_the_header_is_read(path):
    class Watched(LocalSource):
        furthest = 0

        def stream(self, file, offset, nbytes):
            self.furthest = max(self.furthest, offset + nbytes)
            return super().stream(file, offset, nbytes)

    files = Watched(path.parent)
    data = min(item.offset for item in read_safetensors(files, path.name))
    assert files.furthest == data


@pytest.mark.parametrize("keep", [0, 7, 8, 40, -1])
def test_a_truncated_file_is_refused_by_name(path, keep):
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ModelError, match=r"model\.safetensors is truncated; fetch it again"):
        read(path)


@pytest.mark.parametrize(
    "header",
    [
        b"not json",
        b"[]",
        b'{"a": 1}',
        b'{"a": {"dtype": "F32", "shape": [2]}}',
        json.dumps({"a": {"dtype": "F99", "shape": [2], "data_offsets": [0, 8]}}).encode(),
        json.dumps({"a": {"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}}).encode(),
        json.dumps({"a": {"dtype": "F32", "shape": [-2], "data_offsets": [8, 0]}}).encode(),
    ],
)
def test_a_broken_header_is_refused_by_name(path, header):
    path.write_bytes(len(header).to_bytes(8, "little") + header + b"\0" * 8)
    with pytest.raises(ModelError, match=r"model\.safetensors is not a safetensors file, or a broken one"):
        read(path)


def test_another_kind_of_file_is_refused_by_name(path):
    path.write_bytes(b"<html>Not Found</html>" * 10)
    with pytest.raises(ModelError, match=r"model\.safetensors is not a safetensors file"):
        read(path)
