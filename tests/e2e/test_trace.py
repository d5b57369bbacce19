"""`potluck trace`: the timeline of a request, and what is told where there is none."""

from __future__ import annotations

import json
import re

import httpx
import pytest

from kit.processes import LOCAL, complaint, potluck
from potluck.local import HANG_S, LocalSwarm

SENTENCE = (
    r"Layers (0-1|2-3|4-5) on \S+ take \d+ % of a token's time: [\d.]+ of [\d.]+ ms \(compute .*, wire [\d.]+\)\."
)


def drawn(timeline: dict) -> list[dict]:
    return [event for event in timeline["traceEvents"] if event["ph"] == "X"]


def test_trace_writes_the_timeline_of_its_question(tiny_swarm, tmp_path):
    for _ in range(2):  # the second must hold nothing of the first
        out = tmp_path / "timeline.json"
        told = potluck("trace", tiny_swarm.url, out, "--prompt", "hello there", "--tokens", 8)
        assert told.returncode == 0, told.stderr
        sentence, hint = told.stdout.splitlines()
        assert re.fullmatch(SENTENCE, sentence), sentence
        assert hint == f"Open {out} at https://ui.perfetto.dev or chrome://tracing."
        timeline = json.loads(out.read_text("utf-8"))
        assert timeline["summary"] == sentence
        assert timeline["batches"] == {"count": 7 * 3, "rows": 1, "share": 1}  # the prompt is none of them
        processes = {
            event["pid"]: event["args"]["name"] for event in timeline["traceEvents"] if event["name"] == "process_name"
        }
        assert [name.rpartition(": ")[2] for _, name in sorted(processes.items())] == [
            "sessions",
            "layers 0-1",
            "layers 2-3",
            "layers 4-5",
        ]
        events = drawn(timeline)
        assert {event["pid"] for event in events} == set(processes)
        assert all(event["ts"] >= 0 and event["dur"] > 0 for event in events)
        assert len({event["args"]["session"] for event in events}) == 1
        steps = [event["name"] for event in events if event["pid"] == 1]
        assert steps == ["prompt", *["token"] * 7]  # the prompt gives the first token
        for pid in processes.keys() - {1}:
            assert {event["args"]["step"] for event in events if event["pid"] == pid} == set(range(8))


def test_trace_without_a_question_writes_what_there_was_lately(tiny_swarm, tmp_path):
    for _ in range(2):
        body = {"model": "tiny", "prompt": "xyzzy", "max_tokens": 2, "ignore_eos": True}
        httpx.post(f"{tiny_swarm.url}/v1/completions", json=body, timeout=HANG_S).raise_for_status()
    told = potluck("trace", tiny_swarm.url, tmp_path / "timeline.json")
    assert told.returncode == 0, told.stderr
    text = (tmp_path / "timeline.json").read_text("utf-8")
    sessions = {event["args"]["session"] for event in drawn(json.loads(text))}
    assert len(sessions) >= 2
    assert "xyzzy" not in text
    some = httpx.get(f"{tiny_swarm.url}/trace?session={min(sessions)}", timeout=HANG_S).json()
    assert {event["args"]["session"] for event in drawn(some)} == {min(sessions)}
    rest = httpx.get(f"{tiny_swarm.url}/trace?after={some['count'] - 3}", timeout=HANG_S).json()
    assert {event["args"]["session"] for event in drawn(rest)} == {max(sessions)}
    assert rest["batches"] == {"count": 3, "rows": 1, "share": 1}
    none = httpx.get(f"{tiny_swarm.url}/trace?session=0", timeout=HANG_S).json()
    assert (none["batches"], drawn(none)) == (None, [])


@pytest.mark.parametrize("number", ["", "x", "-1", "1.5", "9" * 5000, "٣"])
def test_what_is_no_number_is_refused(tiny_swarm, number):
    for name in ("session", "after"):
        reply = httpx.get(f"{tiny_swarm.url}/trace", params={name: number}, timeout=HANG_S)
        assert reply.status_code == 400
        assert reply.json()["error"]["message"] == f"{name} must be a whole number, 0 or more."


def test_trace_tells_why_there_is_no_timeline(tiny, tiny_swarm, tmp_path):
    out = tmp_path / "timeline.json"
    with LocalSwarm(tiny, [], serve=LOCAL) as swarm:
        assert complaint("trace", swarm.url, out) == (
            "The swarm has not computed anything yet: ask it something, for example with --prompt."
        )
        assert complaint("trace", swarm.url, out, "--prompt", "hello") == "No node serves layers 0-5 now."
    assert complaint("trace", "http://127.0.0.1:1", out).startswith("No coordinator can be reached at")
    assert not out.exists()
    nowhere = tmp_path / "none" / "timeline.json"
    assert complaint("trace", tiny_swarm.url, nowhere, "--prompt", "hello", "--tokens", 1) == (
        f"Cannot write {nowhere}: No such file or directory."
    )
