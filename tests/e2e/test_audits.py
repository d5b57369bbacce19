"""A node that lies, in a swarm of real processes."""

from __future__ import annotations

from pathlib import Path

import pytest

from kit.processes import LOCAL, ONE_THREAD, PYTHON, staying
from kit.waiting import eventually
from potluck.local import LocalSwarm

HOSTILE = Path(__file__).parents[2] / "benchmarks" / "hostile_node.py"


@pytest.mark.parametrize(("attack", "span"), [("bias 0.1 %", "0-2"), ("forged candidates", "3-5")])
def test_a_node_that_lies_is_put_in_quarantine_and_answers_become_right(
    tiny, tiny_unsplit, client_of, attack, span, tmp_path
):
    with LocalSwarm(tiny, [], serve=LOCAL, join=[*ONE_THREAD, "--model", str(tiny)]) as swarm:
        for name in ("a", "b"):
            for layers in ("0-2", "3-5"):
                swarm.add_node(layers, "--name", f"{layers} {name}")
        swarm.wait_covered()
        log = tmp_path / "hostile.txt"
        arguments = [swarm.url, span, "--attack", attack, "--model", tiny]
        with staying(*PYTHON, HOSTILE, *arguments, log=log):
            eventually(lambda: "Serving layers" in log.read_text())
            client = client_of(swarm)
            prompt = tiny_unsplit.encode("the potluck of liars")
            for number in range(60):
                asked = [*prompt, number % 200]
                answer = client.completions.create(model="tiny", prompt=asked, max_tokens=20, n=4)
                assert len(answer.choices) == 4  # at once, so that all nodes have work
                if "CAUGHT" in log.read_text():
                    break
            eventually(lambda: "The coordinator no longer uses this node: its" in log.read_text())
            swarm.coordinator.wait_for("is put in quarantine: its")
        swarm.wait_until(lambda status: [node["state"] for node in status["nodes"]] == ["ready"] * 4)
        expected = tiny_unsplit.text(prompt, 20)
        answer = client.completions.create(model="tiny", prompt=prompt, max_tokens=20, temperature=0)
        assert answer.choices[0].text == expected
        status = swarm.status()
        assert status["audits_failed"] >= 1
        assert status["audits_undecided"] == 0
