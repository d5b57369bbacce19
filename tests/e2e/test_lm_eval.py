"""lm-evaluation-harness as it comes: through three nodes it measures what the unsplit model gives, bit for bit."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kit.processes import finish
from kit.unsplit import Unsplit, chosen_logprob
from potluck.local import HANG_S, LocalSwarm

pytestmark = pytest.mark.filterwarnings("default")  # those of other people's code

ROOT = Path(__file__).parent.parent.parent
TASKS = ROOT / "tests" / "data" / "lm_eval"
FEW = 8
"""Of each task that the second run asks."""
RUN_S = 6 * HANG_S
"""Ends a run that hangs, and the wait of its last request: it asks hundreds of times, some at a time."""

Score = tuple[float, bool]
"""A choice's log-likelihood, and whether greedy decoding would have chosen it."""


@pytest.fixture(scope="module")
def offline(tmp_path_factory: pytest.TempPathFactory) -> Iterator[pytest.MonkeyPatch]:
    """Tasks are read from the root of the repository, without any hub, into a cache of their own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_DATASETS_CACHE", str(tmp_path_factory.mktemp("datasets")))
        patch.setenv("HF_DATASETS_OFFLINE", "1")
        patch.setenv("USE_TORCH", "0")  # lm_eval would load PyTorch beside the unsplit model's llama.cpp
        patch.chdir(ROOT)
        yield patch


class Samples:
    """What a run asked and got: by task, then by question."""

    def __init__(self, answers: dict[str, dict[int, Any]], results: dict[str, Any]) -> None:
        self.results = results
        self.quiz = {number: [_score(choice) for [choice] in given] for number, given in answers["quiz"].items()}
        self.spoken = {number: text for number, [[text]] in answers.get("quiz_spoken", {}).items()}
        self.alice = {number: float(total) for number, [[total]] in answers.get("alice", {}).items()}


def _score(choice: Any) -> Score:
    """Files hold what Python prints of it, which names every bit."""
    loglikelihood, greedy = choice
    return float(loglikelihood), str(greedy) == "True"


def evaluate(swarm: LocalSwarm, model: str, tasks: str, *options: str, folder: Path, concurrent: int) -> Samples:
    """What `lm_eval` tells of the swarm, which it knows by its address alone."""
    command = [Path(sys.executable).parent / "lm_eval", "--model", "local-completions", "--tasks", tasks, *options]
    command += ["--include_path", TASKS, "--log_samples", "--output_path", folder, "--model_args", f"model={model}"]
    command += [f"base_url={swarm.url}/v1/completions", f"num_concurrent={concurrent}", f"timeout={RUN_S:.0f}"]
    done = finish(*command, timeout_s=RUN_S)
    assert done.returncode == 0, done.stderr[-3000:]
    [results] = folder.glob("*/results_*.json")
    files = {task: next(folder.glob(f"*/samples_{task}_2*.jsonl")) for task in tasks.split(",")}
    lines = {task: map(json.loads, file.read_text().splitlines()) for task, file in files.items()}
    answers = {task: {line["doc_id"]: line["resps"] for line in told} for task, told in lines.items()}
    return Samples(answers, json.loads(results.read_text())["results"])


@pytest.fixture(scope="module")
def together(
    offline: pytest.MonkeyPatch, smol: LocalSwarm, name: str, tmp_path_factory: pytest.TempPathFactory
) -> Samples:
    """All questions, eight requests at a time."""
    return evaluate(smol, name, "quiz", folder=tmp_path_factory.mktemp("together"), concurrent=8)


@pytest.fixture(scope="module")
def batched(
    offline: pytest.MonkeyPatch, smol: LocalSwarm, name: str, tmp_path_factory: pytest.TempPathFactory
) -> Samples:
    """Some of each task, eight prompts a request."""
    options = ["--batch_size", "8", "--limit", str(FEW)]
    folder = tmp_path_factory.mktemp("batched")
    return evaluate(smol, name, "quiz,quiz_spoken,alice", *options, folder=folder, concurrent=1)


@pytest.fixture(scope="module")
def whole(offline: pytest.MonkeyPatch, smollm2: Path) -> Samples:
    """The same harness with one engine in this process: no coordinator, no nodes."""
    from lm_eval.api.model import TemplateLM
    from lm_eval.evaluator import simple_evaluate
    from lm_eval.tasks import TaskManager

    class Whole(TemplateLM):
        """The unsplit model. Choices of one question share its beginning, which is fed once."""

        def __init__(self, model: Unsplit) -> None:
            super().__init__()
            self.model = model
            self._fed: list[int] = []

        @property
        def eot_token_id(self) -> int:
            return self.tok_encode(self.model.tokenizer.eos)[0]

        @property
        def prefix_token_id(self) -> int:
            return self.tok_encode(self.model.tokenizer.bos)[0]

        def tok_encode(self, string: str, **_: object) -> list[int]:
            return self.model.tokenizer.encode(string, special=True, bos=False)

        def _loglikelihood_tokens(self, requests: list[Any], **_: object) -> list[Score]:
            return [self._scored(context, continuation) for _, context, continuation in requests]

        def _scored(self, context: list[int], continuation: list[int]) -> Score:
            rows = self._last_logits([*context, *continuation[:-1]], len(continuation))
            return sum(map(chosen_logprob, rows, continuation)), [int(row.argmax()) for row in rows] == continuation

        def _last_logits(self, tokens: list[int], count: int) -> np.ndarray:
            """After each of the last `count` tokens."""
            same = takewhile(lambda pair: pair[0] == pair[1], zip(self._fed, tokens, strict=False))
            kept = min(len(list(same)), len(tokens) - count)
            self._fed = tokens
            self.model._engine.truncate(1, kept)
            return self.model._feed(kept, tokens[kept:], count)

        def loglikelihood_rolling(self, requests: list[Any], **_: object) -> list[float]:
            texts = [self.tok_encode(request.args[0]) for request in requests]
            return [self._scored([self.prefix_token_id], text)[0] for text in texts]

        def generate_until(self, requests: list[Any], **_: object) -> list[str]:
            return [self._spoken(*request.args) for request in requests]

        def _spoken(self, prompt: str, options: dict[str, Any]) -> str:
            self._fed = []
            text = self.model.text(self.tok_encode(prompt), options["max_gen_toks"])
            return text[: min(len(text), *(found for stop in options["until"] if (found := text.find(stop)) >= 0))]

    offline.setattr("lm_eval.utils.is_torch_available", lambda: False)
    model, manager = Unsplit(smollm2), TaskManager(include_path=str(TASKS))
    try:
        runs = [
            simple_evaluate(
                Whole(model),
                tasks=tasks,
                limit=limit,
                task_manager=manager,
                bootstrap_iters=0,
            )
            for tasks, limit in ((["quiz"], None), (["quiz_spoken", "alice"], FEW))
        ]
    finally:
        model.close()
    told = {task: samples for run in runs for task, samples in run["samples"].items()}
    answers = {task: {one["doc_id"]: one["resps"] for one in samples} for task, samples in told.items()}
    return Samples(answers, {task: result for run in runs for task, result in run["results"].items()})


def test_every_choice_has_the_loglikelihood_that_the_unsplit_model_gives_it(together: Samples, whole: Samples) -> None:
    assert len(together.quiz) == 120
    assert {len(choices) for choices in together.quiz.values()} == {4}
    assert together.quiz == whole.quiz
    assert {greedy for choices in whole.quiz.values() for _, greedy in choices} == {True, False}


def test_the_accuracy_is_that_of_the_unsplit_model(together: Samples, whole: Samples) -> None:
    assert together.results["quiz"]["acc,none"] == whole.results["quiz"]["acc,none"]
    assert whole.results["quiz"]["acc,none"] > 0.5  # it is no guessing


def test_prompts_that_come_in_batches_have_the_same(batched: Samples, whole: Samples) -> None:
    assert batched.quiz == {number: whole.quiz[number] for number in range(FEW)}


def test_what_the_model_writes_is_the_same(batched: Samples, whole: Samples) -> None:
    assert len(batched.spoken) == FEW
    assert batched.spoken == whole.spoken
    assert any(batched.spoken.values())


def test_the_perplexity_of_a_text_is_the_same(batched: Samples, whole: Samples) -> None:
    assert len(batched.alice) == FEW
    assert batched.alice == whole.alice
    name = "byte_perplexity,none"
    assert batched.results["alice"][name] == whole.results["alice"][name]
