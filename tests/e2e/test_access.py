"""Private and public swarms: real processes, the real command line, the official client."""

from __future__ import annotations

import json
import os
import re
import sqlite3
import stat
from contextlib import closing
from functools import partial

import httpx
import openai
import psutil

from kit.processes import OPEN, PRIVATE, complaint
from kit.proxy import Proxy
from kit.waiting import eventually
from potluck.local import HANG_S

PROMPT = "the potluck that nobody else shall read about"


def test_a_dry_run_tells_what_a_node_would_add_and_uses_nothing_up(start, tmp_path, monkeypatch):
    monkeypatch.setenv("POTLUCK_CACHE", str(tmp_path / "cache"))  # other tests' nodes may have fetched these layers
    swarm = start(*PRIVATE)
    invite = swarm.invite("--uses", 1)
    assert "private: ask its owner for an invite" in complaint("join", swarm.url, "--dry-run")
    empty = swarm.ask("/status", swarm.admin_key).json()
    for _ in range(2):
        told = swarm.run("join", invite, "0-2", "--memory", "400M", "--dry-run").splitlines()
        assert re.fullmatch(r"Layers 0-2 take \d+ of the 400 MiB of memory that you offer\.", told[0])
        assert re.fullmatch(rf"This node has to download \d\.\d MiB from {swarm.url}\.", told[1])
        assert told[2] == "Without this node, the swarm lacks layers 0-5; with it, the swarm lacks layers 3-5."
        assert told[3:] == ["This was a dry run: nothing was downloaded, and the swarm is unchanged."]
    assert "need" in complaint("join", invite, "0-2", "--memory", "1M", "--dry-run")
    eventually(lambda: swarm.ask("/status", swarm.admin_key).json() == empty)
    assert json.loads(swarm.run("invite", "list", swarm.url, "--json"))["invites"][-1]["uses_left"] == 1
    assert json.loads(swarm.run("node", "list", swarm.url, "--json")) == {"nodes": []}
    with swarm.join(invite, "anna") as node:
        node.wait_for("Serving layers 0-5 ")
        assert node.wait_for("Without this node").endswith("lacks layers 0-5; with it, the swarm lacks none.")
        told = swarm.run("join", swarm.invite(), "--dry-run")
        assert "Without this node, the swarm generates " in told
        assert swarm.nodes() == ["anna"]


def test_a_private_swarm_from_invite_to_answer_tells_no_secret(start, tmp_path):
    swarm = start(*PRIVATE)
    [printed] = re.findall(r'join "(\S+)"', swarm.coordinator.wait_for("To add a machine"))
    assert re.fullmatch(rf"{swarm.url}/#[\w-]{{22}}\.[0-9a-f]{{16}}", printed)
    if os.name == "posix":
        assert stat.S_IMODE((tmp_path / "admin.key").stat().st_mode) == 0o600
    invite, key = swarm.invite("--uses", 1, "--account", "anna"), swarm.new_key("--account", "anna")
    bens = swarm.new_key("--account", "ben")  # what anna asks her own node earns nothing
    with swarm.join(invite, "anna") as node:
        node.wait_for("Serving layers 0-5 ")
        assert "private: ask its owner for an invite" in complaint("join", swarm.url)
        assert "This invite is used up" in complaint("join", invite, "--name", "other")
        with openai.OpenAI(base_url=f"{swarm.url}/v1", api_key=bens, max_retries=0, timeout=HANG_S) as client:
            answer = client.completions.create(model="tiny", prompt=PROMPT, max_tokens=8)
        assert answer.usage is not None
        assert answer.usage.completion_tokens > 0
        status = swarm.ask("/status", key).text
        account = swarm.ask("/v1/account", key).json()
        assert "Account owner has 0 credits: 0 earned, 0 spent." in swarm.run("account", swarm.url)
    assert (account["account"], account["credits"], account["weight"]) == ("anna", 0, 1.0)
    assert account["pending"] >= 6 * answer.usage.completion_tokens
    assert [each["name"] for each in account["nodes"]] == ["anna"]
    swarm.coordinator.stop()
    told = "\n".join([*swarm.coordinator.lines, *node.lines, status]).replace(printed, "")
    secrets = [*(re.split("[#.]", url)[-2] for url in (printed, invite)), key, bens, swarm.admin_key, PROMPT]
    assert not [secret for secret in secrets if secret in told]
    stored = b"".join(file.read_bytes() for file in tmp_path.glob("potluck.db*"))
    assert b"anna" in stored
    assert not [secret for secret in secrets if secret.encode() in stored]


def test_a_coordinator_that_is_killed_forgets_no_credits(start):
    swarm = start(*PRIVATE)
    key, bens = swarm.new_key("--account", "anna"), swarm.new_key("--account", "ben")
    with swarm.join(swarm.invite("--account", "anna"), "anna") as node:
        node.wait_for("Serving layers 0-5 ")
        with openai.OpenAI(base_url=f"{swarm.url}/v1", api_key=bens, max_retries=0, timeout=HANG_S) as client:
            client.completions.create(model="tiny", prompt=PROMPT, max_tokens=8)
            before = swarm.ask("/v1/account", key).json()
        swarm.coordinator.popen.kill()
    swarm.coordinator.wait()
    after = start(*PRIVATE).ask("/v1/account", key).json()
    assert after["earned"] + after["pending"] == before["earned"] + before["pending"] > 0


def test_strangers_wrong_keys_and_revoked_ones_are_refused(start):
    swarm = start(*PRIVATE)
    assert swarm.ask("/health").json() == {"status": "ok"}
    assert swarm.ask("/status").status_code == 401
    assert complaint("status", swarm.url, "--key", "pk-wrong").startswith("This API key is wrong or was revoked.")
    key = swarm.new_key("--account", "ben", "--per-minute", 3)
    number = re.findall(r"key revoke \S+ (\w+)", swarm.run("key", "create", swarm.url, "--account", "ben"))[0]
    assert [swarm.ask("/status", key).status_code for _ in range(4)] == [200, 200, 200, 429]
    listed = swarm.run("key", "list", swarm.url)
    assert re.search(rf"{number} .* ben +no +600 +all +valid", listed)
    assert key not in listed
    assert number in {each["id"] for each in json.loads(swarm.run("key", "list", swarm.url, "--json"))["keys"]}
    other = swarm.new_key("--account", "cleo")
    assert swarm.ask("/v1/account", other).json()["account"] == "cleo"
    assert swarm.ask("/v1/admin/keys", other).status_code == 403
    for line in swarm.run("key", "list", swarm.url).splitlines():
        if " cleo " in line:
            swarm.run("key", "revoke", swarm.url, line.split()[0])
    assert swarm.ask("/v1/account", other).status_code == 401
    assert complaint("key", "revoke", swarm.url, "nothing") == "There is no API key 'nothing'."


def test_a_revoked_node_is_cut_at_once_and_stays_outside(start):
    swarm = start(*PRIVATE)
    url = swarm.invite("--account", "anna", "--expires", "1h")
    [number] = re.findall(r"^ (\w{8}) .* anna ", swarm.run("invite", "list", swarm.url), re.M)
    invites = json.loads(swarm.run("invite", "list", swarm.url, "--json"))["invites"]
    assert [each["id"] for each in invites if each["account"] == "anna"] == [number]
    assert json.loads(swarm.run("node", "list", swarm.url, "--json")) == {"nodes": []}
    with swarm.join(url, "one") as one, swarm.join(url, "two") as two:
        eventually(lambda: swarm.nodes() == ["one", "two"])
        [digits] = re.findall(r"^ (\w{16}) +one ", swarm.run("node", "list", swarm.url), re.M)
        assert swarm.run("node", "revoke", swarm.url, digits) == "Node one is revoked.\n"
        assert one.wait() == 1
        assert one.lines[-1] == "potluck: The swarm's owner has revoked this node."
        assert swarm.nodes() == ["two"]
        with swarm.join(url, "one") as again:
            assert again.wait() == 1
            assert "revoked this node" in again.lines[-1]
        told = swarm.run("invite", "revoke", swarm.url, number, "--nodes")
        assert told.splitlines()[0] == f"Invite {number} is revoked."
        assert re.search(r"Node two \(\w{16}\) joined with it and is cut off\.", told)
        assert two.wait() == 1
    assert swarm.nodes() == []
    assert "This invite was revoked" in complaint("join", url, "--name", "three")
    assert "Node one may join again." in swarm.run("node", "restore", swarm.url, digits)
    with swarm.join(swarm.url, "one") as back:
        back.wait_for("Serving layers 0-5 ")


def test_a_revoked_node_fetches_nothing_from_the_others_either(start):
    swarm = start(*PRIVATE)
    url = swarm.invite()
    with Proxy(swarm.url).running() as proxy, swarm.join(url, "good") as good:
        good.wait_for("Serving layers 0-5 ")
        sockets = psutil.Process(good.popen.pid).net_connections()
        [port] = [each.laddr.port for each in sockets if each.status == psutil.CONN_LISTEN]
        with swarm.join(url.replace(swarm.url, proxy.url), "bad") as bad:
            bad.wait_for("Serving layers 0-5 ")
            [token] = re.findall(rb"peer_token\xd9.([\w-]{43})", proxy.told)
            fetch = partial(
                httpx.get,
                f"http://127.0.0.1:{port}/tensors",
                headers={"Authorization": f"Bearer {token.decode()}"},
                timeout=HANG_S,
            )
            assert len(fetch().json()) > 0
            [digits] = re.findall(r"^ (\w{16}) +bad ", swarm.run("node", "list", swarm.url), re.M)
            swarm.run("node", "revoke", swarm.url, digits)
            eventually(lambda: fetch().status_code == 401)
            assert bad.wait() == 1
        assert swarm.nodes() == ["good"]


def test_a_node_comes_back_to_the_next_coordinator_without_using_its_invite_again(start):
    swarm = start(*PRIVATE)
    with swarm.join(swarm.invite("--uses", 1), "anna") as node:
        node.wait_for("Serving layers 0-5 ")
        first = swarm.admin_key
        swarm.coordinator.stop()
        again = start(*PRIVATE, port=int(swarm.url.rpartition(":")[2]))
        assert again.admin_key == first
        eventually(lambda: again.nodes() == ["anna"])
        assert sum("Loading layers" in line for line in node.lines) == 1
        again.coordinator.wait_for(f"Others need an invite: potluck invite create {swarm.url}")
        assert len(json.loads(again.run("invite", "list", again.url, "--json"))["invites"]) == 2  # no third one


def test_an_expired_invite_is_refused(start, tmp_path):
    swarm = start(*PRIVATE)
    url = swarm.invite("--expires", "30m")
    with closing(sqlite3.connect(tmp_path / "potluck.db")) as database, database:
        database.execute("UPDATE invites SET expires = created")
    assert "This invite has expired" in complaint("join", url)
    assert "is not a lifetime" in complaint("invite", "create", swarm.url, "--expires", "soon")


def test_in_a_public_swarm_strangers_join_and_ask_but_do_not_manage(start):
    swarm = start(*OPEN)
    with swarm.join(swarm.url, "anna") as node:
        node.wait_for("Serving layers 0-5 ")
        asked = {"model": "tiny", "prompt": PROMPT, "max_tokens": 2}
        assert swarm.ask("/v1/completions", json=asked).status_code == 200
        assert swarm.ask("/status").json()["covered"] is True
        assert swarm.ask("/v1/admin/invites").status_code == 401
        assert swarm.ask("/manifest").status_code == 401


def test_a_swarm_for_this_machine_wants_no_key_and_no_proxy(tiny_swarm):
    assert httpx.get(f"{tiny_swarm.url}/v1/account", timeout=HANG_S).json()["account"] == "owner"
    for header in ({"Host": "evil.example"}, {"X-Forwarded-For": "203.0.113.7"}, {"Origin": "https://evil.example"}):
        assert httpx.get(f"{tiny_swarm.url}/status", headers=header, timeout=HANG_S).status_code == 403
    assert "leave --host out" in complaint("serve", "x", "--local", "--host", "0.0.0.0")
    assert "give at most one of them" in complaint("serve", "x", "--local", "--open")
    assert "--database must be the URL" in complaint("serve", "x", "--port", 0, "--database", "potluck")
