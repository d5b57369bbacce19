"""Random models as transformers saves them, and what transformers makes of them.

As a program: `python -m kit.reference CASES FOLDER`, so that the tests' own process need not load PyTorch.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from kit.processes import python

if TYPE_CHECKING:
    from transformers import PreTrainedModel

LAYERS = 4
VOCABULARY = 320
LONG = 250
GREEDY = 32
CLEAR = 0.02
"""Of the logits' deviation: some five times what rounding changes (0.1 to 0.4 %)."""

Tokens = npt.NDArray[np.int32]
Logits = npt.NDArray[np.float32]
Cases = Mapping[str, tuple[str, Mapping[str, Any]]]
"""By name: the prefix of transformers' classes, and settings of the config."""


@dataclass(frozen=True)
class Reference:
    """folder: as transformers has saved the model. logits: `[n, V]` of so many `tokens()`.

    prompt, continuation: a beginning, and the tokens that follow greedily, none of them by a near-tie, which rounding
    alone would decide.
    """

    folder: Path
    logits: Mapping[int, Logits]
    prompt: Tokens
    continuation: list[int]


def tokens(count: int = 40, seed: int = 0) -> Tokens:
    return np.random.default_rng(seed).integers(0, VOCABULARY, count).astype(np.int32)


def make_references(cases: Cases, folder: Path) -> dict[str, Reference]:
    here = Path(__file__).parent.parent
    python("-m", "kit.reference", json.dumps(cases), folder, cwd=here)
    return {name: _read(folder / name) for name in cases}


def _read(folder: Path) -> Reference:
    with np.load(folder / "reference.npz") as stored:
        logits = {count: stored[f"logits-{count}"] for count in (40, LONG)}
        return Reference(folder, logits, stored["prompt"], stored["continuation"].tolist())


def _make(name: str, settings: Mapping[str, Any], folder: Path) -> None:
    import torch
    import transformers

    torch.manual_seed(0)
    usual: dict[str, Any] = {
        "hidden_size": 128, "num_attention_heads": 4, "num_hidden_layers": LAYERS, "intermediate_size": 192,
        "vocab_size": VOCABULARY, "max_position_embeddings": 512, "initializer_range": 0.12,
    }  # fmt: skip
    config = getattr(transformers, f"{name}TextConfig" if name == "Gemma3" else f"{name}Config")(
        **{**usual, **settings}
    )
    model = getattr(transformers, f"{name}LMHeadModel" if name == "GPT2" else f"{name}ForCausalLM")(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:  # norms of 1 and biases of 0 would hide that one is lost
                parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(folder, max_shard_size="200KB")
    prompt, continuation = _clear_greedy(model)
    logits = {f"logits-{count}": _logits(model, tokens(count)) for count in (40, LONG)}
    np.savez(folder / "reference.npz", allow_pickle=False, prompt=prompt, continuation=continuation, **logits)


def _logits(model: PreTrainedModel, sequence: npt.ArrayLike) -> Logits:
    import torch

    with torch.no_grad():
        logits: Logits = model(torch.from_numpy(np.asarray(sequence, np.int64))[None]).logits[0].numpy()
    return logits


def _clear_greedy(model: PreTrainedModel) -> tuple[Tokens, list[int]]:
    for seed in range(200):
        prompt = tokens(8, seed)
        sequence = list(prompt)
        for _ in range(GREEDY):
            logits = _logits(model, sequence)[-1]
            second, first = np.sort(logits)[-2:]
            if first - second < CLEAR * logits.std():
                break
            sequence.append(int(logits.argmax()))
        else:
            return prompt, sequence[len(prompt) :]
    raise AssertionError("No prompt of this model has 32 clear tokens.")


def _main(cases: str, folder: str) -> None:
    for case, (name, settings) in json.loads(cases).items():
        _make(name, settings, Path(folder) / case)


if __name__ == "__main__":
    _main(*sys.argv[1:])
