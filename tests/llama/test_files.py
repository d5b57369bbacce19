"""Where the llama.cpp library is found: in a folder that is named, in packages, and with its parts by their names."""

from __future__ import annotations

from pathlib import Path

import pytest

from potluck.errors import EngineError
from potluck.llama import files as finding
from potluck.llama.files import CHOSEN, LibraryFiles, find_library

LINUX = ("libggml-base.so.0", "libggml.so.0", "libllama.so.0", "libgomp.so.1", "libmtmd.so.0", "libllama-common.so.0")
PLUGINS = ("libggml-cpu-haswell.so", "libggml-cpu-x64.so", "libggml-vulkan.so", "llama-server")
MACOS = ("libggml-base.0.dylib", "libggml.0.dylib", "libllama.0.dylib", "libggml-cpu.so", "libggml-metal.so")
WINDOWS = ("ggml-base.dll", "ggml.dll", "llama.dll", "ggml-cpu.dll", "ggml-vulkan.dll", "llama-common.dll")


def write(folder: Path, names: tuple[str, ...], content: bytes = b"") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_bytes(content)
    return folder


def chosen(folder: Path, monkeypatch: pytest.MonkeyPatch) -> LibraryFiles:
    monkeypatch.setenv(CHOSEN, str(folder))
    return find_library()


def test_a_folder_with_lib_and_bin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "lib", LINUX), write(tmp_path / "bin", PLUGINS)
    found = chosen(tmp_path, monkeypatch)
    assert found.llama == tmp_path / "lib/libllama.so.0"
    assert found.openmp == tmp_path / "lib/libgomp.so.1"
    assert [file.name for file in found.kernels] == ["libggml-cpu-haswell.so", "libggml-cpu-x64.so"]
    assert [file.name for file in found.cards] == ["libggml-vulkan.so"]
    assert found.cpu is None


@pytest.mark.parametrize("names", [MACOS, WINDOWS])
def test_the_names_of_other_systems(names: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = chosen(write(tmp_path / "a folder with späces", names), monkeypatch)
    assert (found.base.name, found.ggml.name, found.llama.name) == names[:3]
    assert [file.name for file in (*found.kernels, *found.cards)] == list(names[3:5])
    assert found.openmp is None


def test_a_library_whose_cpu_part_is_linked_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("libggml-base.so", "libggml.so", "libllama.so", "libggml-cpu.so", "libggml-cpu.so.0", "libggml-cuda.so")
    found = chosen(write(tmp_path, names, b"\0libggml-cpu.so.0\0"), monkeypatch)
    assert found.cpu == tmp_path / "libggml-cpu.so"
    assert not found.kernels
    assert not found.cards


def test_a_folder_without_a_library_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for names in ((), LINUX[1:], ("libllama.so",)):
        folder = write(tmp_path / str(len(names)), names)
        with pytest.raises(EngineError, match=r"has no llama\.cpp library with ggml and ggml-base beside it"):
            chosen(folder, monkeypatch)


def test_files_that_are_no_libraries_are_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from potluck.llama.library import Llama

    with pytest.raises(EngineError, match=r"libggml-base\.so\.0 cannot be loaded"):
        Llama(chosen(write(tmp_path, (*LINUX[:3], *PLUGINS)), monkeypatch))


def test_without_any_package_the_sentence_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(CHOSEN, raising=False)
    monkeypatch.setattr(finding, "_SOURCES", ())
    with pytest.raises(EngineError, match=r"finds no llama.cpp library .* pip install 'potluck\[native\]'"):
        find_library()


def test_the_library_that_is_compiled_here_is_preferred(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(CHOSEN, raising=False)
    preferred = [library.told for library in finding.all_libraries()]
    assert find_library().told == preferred[0]
    assert preferred == sorted(preferred, key=lambda told: told == "prebuilt")


def test_a_folder_may_be_named_from_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(write(tmp_path, (*LINUX, *PLUGINS)))
    assert chosen(Path(), monkeypatch).llama == tmp_path / "libllama.so.0"
