"""A fleet of coordinators with real processes: NATS, PostgreSQL, nodes and clients."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from kit import next_version
from kit.local_fleet import LocalFleet, Member
from kit.processes import complaint, potluck
from kit.tiny_gguf import EXACT, write_tiny_gguf
from kit.waiting import eventually
from potluck import __version__
from potluck.coordinator.fleet.passes import HEADER, Passes
from potluck.local import Process
from potluck.wire.identity import Identity

PROMPT = "Once upon a time"


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A second model."""
    return write_tiny_gguf(
        tmp_path_factory.mktemp("other") / "other.gguf", "llama", tokenizer="bpe", layers=4, dtype=EXACT, seed=2
    )


def told(member: Member, model: str = "tiny", **options: Any) -> tuple[str, Any]:
    """What the official client gets."""
    reply = member.client().completions.create(model=model, prompt=PROMPT, max_tokens=24, logprobs=2, **options)
    choice = reply.choices[0]
    return choice.text, choice.logprobs and choice.logprobs.token_logprobs


def test_request_is_served_where_its_model_is_covered(fleet: LocalFleet, tiny: Path, other: Path) -> None:
    one, two = fleet.add(tiny), fleet.add(tiny, other, options=("--name", "tiny", "--name", "other"))
    fleet.add_node(two, "anna", "--model", "tiny")
    fleet.add_node(two, "ben", "--model", "other")
    eventually(two.covered)
    fleet.wait_known()
    shown = potluck("status", one.url, "--key", one.key).stdout.split()
    for each in (one.url, two.url, "other", "missing", "covered"):
        assert each in shown
    here, there = told(two, temperature=0.8, seed=4), told(one, temperature=0.8, seed=4)
    assert there == here
    assert [each.id for each in one.client().models.list()] == ["tiny", "other"]
    assert told(one, "other", temperature=0) == told(two, "other", temperature=0)

    text = ""
    with one.client() as client:
        for event in client.completions.create(
            model="tiny", prompt=PROMPT, max_tokens=24, temperature=0.8, seed=4, stream=True
        ):
            text += event.choices[0].text
    assert text == here[0]
    assert one.ask("/tokenize", json={"model": "other", "content": "a b"}).json()["tokens"]
    unknown = one.ask("/v1/completions", json={"model": "gpt", "prompt": "a"})
    assert (unknown.status_code, "'other'" in unknown.text) == (404, True)


def test_stranger_and_foreign_coordinator_hand_nothing_over(fleet: LocalFleet, tiny: Path) -> None:
    one = fleet.add(tiny)
    body = b'{"model": "tiny", "prompt": "a"}'
    caller: dict[str, Any] = {"admin": True, "anonymous": False, "models": (), "address": ""}
    own = Identity.load(one.data / "coordinator.key").public
    for text in (
        "garbage",
        Passes(Identity.fresh(), b"e" * 32).issue(own, "POST", "/v1/completions", body, account="owner", **caller),
    ):
        reply = httpx.post(f"{one.url}/v1/completions", content=body, headers={HEADER: text})
        assert (reply.status_code, reply.json()["error"]["code"]) == (401, "invalid_pass")
    genuine = Passes(Identity.load(fleet.folder / "fleet.key"), b"o" * 32)
    text = genuine.issue(own, "POST", "/v1/completions", body, account="owner", **caller)
    reply = httpx.post(f"{one.url}/v1/completions", content=body + b" ", headers={HEADER: text})
    assert (reply.status_code, reply.json()["error"]["code"]) == (401, "invalid_pass")  # it was made for another body

    foreign = fleet.folder / "foreign"
    foreign.mkdir()
    Identity.load(foreign / "fleet.key")
    words = ["serve", str(tiny), "--port", "0", "--database", fleet.database, "--fleet", fleet.nats.url]
    with Process(words, POTLUCK_DATA=str(foreign)) as process:
        assert process.wait() == 1
    assert "belongs to the fleet with the key" in process.lines[-1]


def test_fleet_without_what_it_needs_is_refused(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POTLUCK_DATA", str(tmp_path))
    serve, nats = ("serve", tiny, "--port", 0), ("--fleet", "nats://127.0.0.1:1")
    assert "shares one PostgreSQL database" in complaint(*serve, *nats)
    assert "shares one PostgreSQL database" in complaint(*serve, *nats, "--database", f"sqlite:///{tmp_path}/x.db")
    database = ("--database", "postgresql://127.0.0.1:1/x")
    assert "has no fleet key" in complaint(*serve, *nats, *database)
    assert "--local serves this machine only" in complaint(*serve, *nats, *database, "--local")
    Identity.load(tmp_path / "fleet.key")
    assert "the URL of a NATS server" in complaint(*serve, "--fleet", "http://x", *database)


def test_request_goes_on_elsewhere_when_a_coordinator_dies_before_it_answers(fleet: LocalFleet, tiny: Path) -> None:
    one, two, three = fleet.add_all(tiny, 3)
    fleet.add_node(two, "anna")
    fleet.add_node(three, "ben")
    eventually(lambda: two.covered() and three.covered())
    fleet.wait_known()
    expected = told(two, temperature=0)
    two.kill()  # the others still believe in it for some seconds
    assert [told(one, temperature=0) for _ in range(3)] == [expected] * 3
    three.kill()
    eventually(one.covered)  # the nodes of both come here
    assert told(one, temperature=0) == expected


def test_client_that_hangs_up_ends_the_answer_elsewhere(fleet: LocalFleet, tiny: Path) -> None:
    one, two = fleet.add_all(tiny, 2)
    fleet.add_node(two, "anna")
    eventually(two.covered)
    fleet.wait_known()
    asked = {"model": "tiny", "prompt": PROMPT, "max_tokens": 3000, "ignore_eos": True, "stream": True}
    headers = {"Authorization": f"Bearer {one.key}"}
    with httpx.stream("POST", f"{one.url}/v1/completions", json=asked, headers=headers, timeout=60) as reply:
        lines = reply.iter_lines()  # the reply ends with it
        next(lines)
        assert two.ask("/status").json()["streams"] == 1
    eventually(lambda: two.ask("/status").json()["streams"] == 0)


def test_queue_is_left_for_an_idle_coordinator(fleet: LocalFleet, tiny: Path) -> None:
    one, two = fleet.add_all(tiny, 2)
    fleet.add_node(one, "anna")
    fleet.add_node(two, "ben")
    eventually(lambda: one.covered() and two.covered())
    fleet.wait_known()
    asked = {"model": "tiny", "prompt": PROMPT, "max_tokens": 400, "ignore_eos": True, "temperature": 0}
    with ThreadPoolExecutor(64) as threads:
        replies = list(threads.map(lambda _: one.ask("/v1/completions", json=asked), range(64)))
    assert {reply.status_code for reply in replies} == {200}
    assert len({reply.json()["choices"][0]["text"] for reply in replies}) == 1
    assert two.ask("/status").json()["tokens"] > 0


def test_response_that_another_coordinator_keeps_is_found(fleet: LocalFleet, tiny: Path) -> None:
    one, two = fleet.add_all(tiny, 2)
    fleet.add_node(one, "anna")
    fleet.add_node(two, "ben")
    eventually(lambda: one.covered() and two.covered())
    fleet.wait_known()
    kept = one.ask("/v1/responses", json={"model": "tiny", "input": "a", "max_output_tokens": 4}).json()
    assert two.ask(f"/v1/responses/{kept['id']}").json() == kept
    more = {"model": "tiny", "input": "b", "max_output_tokens": 4, "previous_response_id": kept["id"]}
    assert two.ask("/v1/responses", json=more).json()["previous_response_id"] == kept["id"]
    assert two.ask("/v1/responses/resp_none").status_code == 404
    with two.client() as client:
        client.responses.delete(kept["id"])
    assert one.ask(f"/v1/responses/{kept['id']}").status_code == 404


def test_what_an_owner_says_at_one_coordinator_holds_at_all(fleet: LocalFleet, tiny: Path) -> None:
    one, two = fleet.add_all(tiny, 2)
    fleet.add_node(two, "anna")
    node = fleet.add_node(two, "ben")
    eventually(lambda: sorted(two.nodes()) == ["anna", "ben"])
    fleet.wait_known()
    [ben] = [each["key"] for each in one.ask("/v1/admin/nodes").json()["nodes"] if each["name"] == "ben"]
    one.ask(f"/v1/admin/nodes/{ben}", json={"revoked": True})
    eventually(lambda: two.nodes() == ["anna"])
    assert node.wait() == 1
    one.ask(f"/v1/admin/nodes/{ben}", json={"revoked": False})
    fleet.add_node(two, "ben")
    eventually(lambda: sorted([*one.nodes(), *two.nodes()]) == ["anna", "ben"])

    key = one.new_key("carl", per_minute=20)
    assert {one.ask("/v1/models", key).status_code for _ in range(15)} == {200}
    eventually(lambda: two.ask("/v1/models", key).status_code == 429)  # before it has asked twenty times here

    spent = one.new_key("dora")
    asked = {"model": "tiny", "prompt": "a", "max_tokens": 8}
    assert two.ask("/v1/completions", spent, json=asked).status_code == 200
    one.revoke("dora")
    assert two.ask("/v1/completions", spent, json=asked).status_code == 401


def test_versions_that_follow_each_other_serve_together(fleet: LocalFleet, tiny: Path) -> None:
    one = fleet.add(tiny)
    node = fleet.add_node(one, "anna")
    eventually(one.covered)
    two = fleet.add(tiny, program=(next_version.__file__,))  # which upgrades the database
    fleet.wait_known()
    assert {each["version"] for each in one.ask("/fleet").json()["coordinators"]} == {__version__, next_version.VERSION}
    expected = told(one, temperature=0)
    assert told(two, temperature=0) == expected  # handed over by the later one
    key = one.new_key("carl")
    assert two.ask("/v1/models", key).status_code == 200
    one.process.stop()
    eventually(two.covered)
    assert told(two, temperature=0) == expected
    refused = Process(["serve", *one.words], POTLUCK_DATA=str(one.data))
    assert refused.wait() == 1
    assert "does not know the database's schema" in refused.lines[-1]
    one = fleet.add(tiny, program=(next_version.__file__,))  # upgraded, too
    fleet.wait_known(one, two)
    assert told(one, temperature=0) == expected  # handed over to the one that has the node
    assert node.popen.poll() is None
