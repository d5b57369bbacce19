"""Which tensors stay in the machine's memory, as patterns for llama.cpp, and which cards are used."""

from __future__ import annotations

import re

import pytest

from potluck.engine.offloading import chosen, staying
from potluck.llama.devices import Device
from potluck.types import Offload

LAYERS = 6
NAMES = [f"blk.{layer}.{part}.weight" for layer in range(LAYERS) for part in ("attn_q", "ffn_up_exps", "ffn_gate_inp")]
NAMES += ["output.weight", "token_embd.weight", "output_norm.weight"]


def stays(offload: Offload) -> set[str]:
    return {name for name in NAMES if any(re.search(pattern, name) for pattern in staying(offload, LAYERS))}


def test_the_experts_of_the_first_layers_on_the_card_stay_behind() -> None:
    """llama.cpp itself leaves the layers before the last four in memory."""
    assert stays(Offload(4, 1, True)) == {f"blk.{layer}.ffn_up_exps.weight" for layer in (2, 3, 4)}
    assert stays(Offload(4, 4, True)) == set()


def test_the_head_stays_behind_unless_it_is_on_the_card() -> None:
    assert stays(Offload(LAYERS, LAYERS)) == {"output.weight", "token_embd.weight"}


def test_without_a_card_nothing_has_to_be_named() -> None:
    assert staying(Offload(), LAYERS) == []


@pytest.mark.parametrize(("kinds", "used"), [(["card", "integrated card"], 1), (["integrated card"], 1), ([], 0)])
def test_integrated_cards_are_used_only_where_there_are_no_others(kinds: list[str], used: int) -> None:
    found = chosen([Device("a card", kind, 1, 2) for kind in kinds])  # type: ignore[arg-type]
    assert [card.kind for card in found] == kinds[:used]
