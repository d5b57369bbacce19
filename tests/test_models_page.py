"""docs/models.md says what the table of architectures and the sizes of published models give."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest

from potluck.models.architectures import TABLE
from potluck.planning.cost import RESERVE_BYTES, Footprint
from potluck.types import Cuts, Span

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"

with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(str(BENCHMARKS))  # only now: the scripts beside it have names that folders of tests have
    import make_models
    from bench.geometries import MODELS, Model, manifest_of

TEXT = make_models.PAGE.read_text("utf-8")


def test_the_page_is_what_the_script_makes() -> None:
    assert make_models.page(TEXT) == TEXT, "The architectures or sizes have changed: run make docs."
    assert make_models.page(TEXT.replace("| 431.8 |", "| 431.9 |")) == TEXT


def test_every_table_is_on_the_page() -> None:
    assert [name for _, name, _ in make_models.BLOCK.findall(TEXT)] == list(make_models.TABLES)


def test_every_architecture_is_named_once() -> None:
    assert sorted(re.findall(r"`([^`]+)`", make_models.architectures())) == sorted(TABLE)


@pytest.mark.parametrize("model", MODELS.values(), ids=lambda model: model.name)
def test_a_model_has_as_many_weights_as_its_publisher_says(model: Model) -> None:
    sizes = {tensor.name: math.prod(tensor.shape) for tensor in manifest_of(model).tensors}
    experts = sum(size for name, size in sizes.items() if "_exps" in name)
    whole = sum(sizes.values())
    idle = experts - experts * model.used // model.experts if model.experts else 0
    assert whole / 1e9 == pytest.approx(model.parameters, rel=0.01)
    # Some publishers count the embedding among the active weights, and GLM-4.5-Air is rounded down by 7%.
    without = whole - idle - sizes["token_embd.weight"]
    assert min(abs(count / 1e9 / model.active - 1) for count in (whole - idle, without)) < 0.08


def test_machines_take_as_many_layers_as_they_can() -> None:
    sizes = Footprint((10,) * 6, entry=5, head=8)
    assert make_models.fewest(sizes, Cuts.anywhere(6), RESERVE_BYTES + 28) == 3
    assert make_models.fewest(sizes, Cuts.anywhere(6), RESERVE_BYTES + 18) == 6
    assert make_models.fewest(sizes, Cuts.anywhere(6), RESERVE_BYTES + 17) is None  # the head does not fit
    assert make_models.fewest(sizes, Cuts((0, 3, 6)), RESERVE_BYTES + 40) == 2
    assert make_models.fewest(sizes, Cuts((0, 3, 6)), RESERVE_BYTES + 25) is None
    assert sizes.of(Span(0, 5)) == RESERVE_BYTES + 73
