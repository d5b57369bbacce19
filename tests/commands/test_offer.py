"""The list of the models that a coordinator offers."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from kit.tiny_gguf import write_tiny_gguf
from potluck.commands.offer import Offer, offered, read_list
from potluck.coordinator.app import ModelConfig
from potluck.errors import PotluckError
from potluck.types import EngineKind

USUAL = partial(ModelConfig, audit=0.5)


def written(folder: Path, text: str) -> Path:
    path = folder / "offer.toml"
    path.write_text(text)
    return path


def test_each_entry_has_its_own_choices(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        """
        [[model]]
        model = "hf:acme/large:Q4_K_M"

        [[model]]
        model = "code.gguf"
        name = "code"
        names = ["coder", "code"]
        context = 2048
        engine = "llamacpp"
        audit = 0.1
        """,
    )
    assert read_list(path) == [
        Offer(model="hf:acme/large:Q4_K_M"),
        Offer(
            model="code.gguf",
            name="code",
            names=["coder", "code"],
            context=2048,
            engine=EngineKind.LLAMACPP,
            audit=0.1,
        ),
    ]
    assert read_list(path)[1].all_names == ("code", "coder")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "lists no model: it needs an entry [[model]] for each."),
        ("[[model]", "is no list of models: "),
        ("[[model]]\nname = 'a'", "is no list of models: Object missing required field `model` - at `model[0]`."),
        ("[[model]]\nmodel = 'a'\nfoo = 1", "contains unknown field `foo` - at `model[0]`."),
        ("[other]\nmodel = 'a'", "contains unknown field `other`."),
        ("[[model]]\nmodel = 'a'\ncontext = 0", "Expected `int` >= 1 - at `model[0].context`."),
        ("[[model]]\nmodel = 'a'\nengine = 'x'", "Invalid enum value 'x' - at `model[0].engine`."),
        ("[[model]]\nmodel = 'a'\nname = 'x'\n[[model]]\nmodel = 'b'\nnames = ['x']", "a and b have the same name x."),
        ("[[model]]\nmodel = 'a'\nname = '\\u0007'".replace("'\\", '"\\').replace("7'", '7"'), "cannot have the name"),
    ],
)
def test_a_wrong_list_is_refused_with_the_place(text: str, told: str, tmp_path: Path) -> None:
    path = written(tmp_path, text)
    with pytest.raises(PotluckError) as caught:
        read_list(path)
    assert str(caught.value).startswith(str(path))
    assert told in str(caught.value)


def test_a_list_that_is_not_there_is_told_by_its_path(tmp_path: Path) -> None:
    with pytest.raises(PotluckError, match=r"none\.toml cannot be read: No such file or directory\.$"):
        read_list(tmp_path / "none.toml")


def test_paths_are_relative_to_the_list_and_no_weights_are_read(tmp_path: Path) -> None:
    write_tiny_gguf(tmp_path / "a.gguf")
    path = written(tmp_path, "[[model]]\nmodel = 'a.gguf'\ncontext = 64\n")
    models, outlines = offered(path, USUAL, ["other"])
    [model], [outline] = models, outlines
    assert model.model.path == tmp_path / "a.gguf"
    assert (model.context, model.audit, model.aliases) == (64, 0.5, ())
    assert outline.name == "a"
    assert {tensor.sha256 for tensor in outline.tensors} == {"0" * 64}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[[model]]\nmodel = 'a.gguf'\n", "another model has the name a: give a.gguf another name."),
        ("[[model]]\nmodel = 'a.gguf'\nname = 'x'\n" * 2, "have the same name x."),
        ("[[model]]\nmodel = 'a.gguf'\nname = 'x'\n[[model]]\nmodel = './a.gguf'\nname = 'y'", "lists ./a.gguf twice"),
        ("[[model]]\nmodel = 'none.gguf'\n", "none.gguf does not exist."),
        ("[[model]]\nmodel = 'a.gguf'\nname = 'x'\nquantize = 'q8_0'\n", "leave --quantize out."),
    ],
)
def test_models_that_cannot_be_offered_are_told(text: str, told: str, tmp_path: Path) -> None:
    write_tiny_gguf(tmp_path / "a.gguf")
    with pytest.raises(PotluckError) as caught:
        offered(written(tmp_path, text), USUAL, ["a"])
    assert told in str(caught.value)
