"""PyTorch checkpoints: read without PyTorch, and never run."""

import hashlib
import os
import pickle
import zipfile
from collections import OrderedDict

import numpy as np
import pytest

from potluck.errors import ModelError
from potluck.models.arrays import read_array
from potluck.models.files import LocalSource
from potluck.models.manifest import Tensor
from potluck.models.pickled import read_checkpoint


def read(path):
    return {item.name: item for item in read_checkpoint(LocalSource(path.parent), path.name)}


def write_archive(path, pickled, **members):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
        for name, data in members.items():
            archive.writestr(f"archive/{name}", data)


def test_tensors_are_byte_ranges_of_what_torch_saves(tmp_path):
    torch = pytest.importorskip("torch")
    path = tmp_path / "pytorch_model.bin"
    base = torch.randn(6, 4)
    saved = OrderedDict(
        full=base,
        rows=base[2:4],
        tied=base,
        half=torch.randn(3, 5).half(),
        brain=torch.randn(7).bfloat16(),
        mask=torch.ones(1, 1, 3, 3).bool(),
        scalar=torch.tensor(-1e9),
        parameter=torch.nn.Parameter(torch.randn(2, 2)),
        empty=torch.empty(0, 3),
    )
    torch.save(saved, path)
    stored = read(path)
    assert stored.keys() == saved.keys()
    content = path.read_bytes()
    for name, tensor in saved.items():
        item = stored[name]
        assert item.shape == tuple(tensor.shape)
        ours = content[item.offset : item.offset + item.nbytes]
        assert ours == tensor.detach().contiguous().view(-1).view(torch.uint8).numpy().tobytes()
    assert {name: item.dtype for name, item in stored.items()} == {
        "full": "F32", "rows": "F32", "tied": "F32", "half": "F16", "brain": "BF16",
        "mask": "BOOL", "scalar": "F32", "parameter": "F32", "empty": "F32",
    }  # fmt: skip


def test_a_tensor_out_of_order_is_refused(tmp_path):
    torch = pytest.importorskip("torch")
    torch.save({"turned": torch.randn(3, 4).t()}, tmp_path / "model.bin")
    with pytest.raises(ModelError, match=r"model\.bin holds turned out of order"):
        read(tmp_path / "model.bin")


def test_the_format_before_version_1_6_is_refused(tmp_path):
    torch = pytest.importorskip("torch")
    torch.save({"a": torch.randn(3)}, tmp_path / "old.bin", _use_new_zipfile_serialization=False)
    with pytest.raises(ModelError, match=r"old\.bin is truncated, or is not a PyTorch checkpoint of version 1\.6"):
        read(tmp_path / "old.bin")


@pytest.mark.parametrize("keep", [0, 10, 300, -1])
def test_a_truncated_file_is_refused_by_name(tmp_path, keep):
    path = tmp_path / "model.bin"
    write_archive(path, pickle.dumps(OrderedDict()), **{"data/0": b"\0" * 400})
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ModelError, match=r"model\.bin is truncated"):
        read(path)


class Malicious:
    def __init__(self, function, *arguments):
        self.reduced = function, arguments

    def __reduce__(self):
        return self.reduced


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize(
    ("function", "name"),
    [(os.system, r"(posix|nt)\.system"), (eval, r"(__builtin__|builtins)\.eval"), (os.mkdir, "mkdir")],
)
def test_a_pickle_that_would_run_code_is_refused_and_not_run(tmp_path, function, name, protocol):
    path, trace = tmp_path / "model.bin", tmp_path / "trace"
    argument = f"open({str(trace)!r}, 'w')" if function is eval else str(trace)
    argument = f"touch {trace}" if function is os.system else argument
    write_archive(path, pickle.dumps({"a": Malicious(function, argument)}, protocol))
    with pytest.raises(ModelError, match=rf"model\.bin is refused: loading it would run .*{name}"):
        read(path)
    assert not trace.exists()


@pytest.mark.parametrize("pickled", [b"", b"garbage", b"\x80\x02K\x01.", b"\x80\x02]q\x00."])
def test_a_broken_pickle_is_refused(tmp_path, pickled):
    write_archive(tmp_path / "model.bin", pickled)
    with pytest.raises(ModelError, match=r"model\.bin holds a broken pickle"):
        read(tmp_path / "model.bin")


def test_an_archive_of_something_else_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "model.bin", "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(ModelError, match=r"model\.bin is not a PyTorch checkpoint: it does not contain data\.pkl"):
        read(tmp_path / "model.bin")


def test_a_view_beyond_its_storage_is_refused(tmp_path):
    torch = pytest.importorskip("torch")
    path = tmp_path / "model.bin"
    torch.save({"a": torch.zeros(64)}, tmp_path / "whole.bin")
    with zipfile.ZipFile(tmp_path / "whole.bin") as whole, zipfile.ZipFile(path, "w") as cut:
        for name in whole.namelist():
            cut.writestr(name, whole.read(name)[:100] if name.endswith("data/0") else whole.read(name))
    with pytest.raises(ModelError, match=r"model\.bin is truncated"):
        read(path)


def test_a_checkpoint_is_read_through_a_source(tmp_path):
    torch = pytest.importorskip("torch")
    values = torch.randn(4, 8)
    torch.save({"a": values}, tmp_path / "model.bin")
    item = read(tmp_path / "model.bin")["a"]
    digest = hashlib.sha256(values.numpy().tobytes()).hexdigest()
    tensor = Tensor("a", "model.bin", item.offset, item.nbytes, item.dtype, item.shape, digest, None)
    assert np.array_equal(read_array(tensor, LocalSource(tmp_path)), values.numpy())
