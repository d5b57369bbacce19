"""Who talks to whom: TLS, keys that are known again, and keys that have changed."""

from __future__ import annotations

import os
import stat
import sys

import psutil
import pytest

from kit.certificates import Certificate, self_signed
from kit.processes import LOCAL, ONE_THREAD, OPEN, complaint, potluck
from kit.unsplit import check_greedy
from potluck.local import LocalSwarm, Process
from potluck.types import even_spans

NOT_TRUSTED = (
    "its certificate is not trusted here (self-signed certificate): SSL_CERT_FILE may name the file of its authority."
)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return self_signed(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def trusted(certificate: Certificate, monkeypatch: pytest.MonkeyPatch) -> None:
    """By this process and its children."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate.certificate))


@pytest.mark.usefixtures("trusted")
def test_a_swarm_over_tls(tiny, tiny_unsplit, client_of, certificate):
    serve = [*LOCAL, *certificate.options]
    with LocalSwarm(tiny, even_spans(6, 2), serve=serve, join=ONE_THREAD) as swarm:
        assert swarm.url.startswith("https://127.0.0.1:")
        swarm.wait_covered()
        check_greedy(client_of(swarm), "tiny", tiny_unsplit)
        told = potluck("status", swarm.url.replace("https", "wss"))
        assert "Every layer is covered." in told.stdout, told.stderr
        with Process(["join", swarm.url, *ONE_THREAD], SSL_CERT_FILE="/dev/null") as stranger:
            assert stranger.wait() == 1
            assert NOT_TRUSTED in stranger.lines[-1]


def test_an_unknown_authority_is_not_trusted(tiny, certificate):
    with Process(["serve", str(tiny), "--port", "0", *LOCAL, *certificate.options]) as coordinator:
        url = coordinator.wait_for("potluck join").split()[-1]
        assert complaint("status", url) == f"No coordinator can be reached at {url}: {NOT_TRUSTED}"


def test_what_cannot_speak_tls(tiny, certificate, tmp_path):
    serve = ["serve", tiny, "--port", 0, *LOCAL]
    assert "give both --tls-cert and --tls-key" in complaint(*serve, *certificate.options[:2])
    assert "give both --tls-cert and --tls-key" in complaint(*serve, *certificate.options[2:])
    ghost = tmp_path / "ghost.pem"
    for certificate_file, key in ((ghost, certificate.key), (certificate.key, certificate.certificate)):
        said = complaint(*serve, "--tls-cert", certificate_file, "--tls-key", key)
        assert said.startswith("TLS cannot be spoken with these files: ")


def test_nodes_have_keys_of_their_own_and_meet_the_same_coordinator_again(tiny, tmp_path):
    printed = []
    for _ in range(2):
        with LocalSwarm(tiny, [], serve=LOCAL, join=ONE_THREAD, POTLUCK_DATA=str(tmp_path)) as swarm:
            printed.append(swarm.coordinator.wait_for("This coordinator's key is "))
            for name in ("anna", "be/n"):
                swarm.add_node("0", "--name", name).wait_for("Serving layers 0 ")
    assert len(set(printed)) == 1
    keys = [tmp_path / "coordinator.key", *sorted((tmp_path / "nodes").glob("*.key"))]
    assert [key.name for key in keys] == ["coordinator.key", "anna.key", "be%2Fn.key"]
    assert len({key.read_bytes() for key in keys}) == 3
    if os.name == "posix":
        assert {stat.S_IMODE(key.stat().st_mode) for key in keys} == {0o600}


def test_a_key_that_others_can_read_stops_both(tiny, tmp_path):
    for command, path in ((["serve", tiny, "--port", 0, *LOCAL], "coordinator.key"), (["join", "x"], "nodes/x.key")):
        key = tmp_path / path
        key.parent.mkdir(exist_ok=True)
        key.touch(0o644)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("POTLUCK_DATA", str(tmp_path))
            more = ["--name", "x"] if command[0] == "join" else []
            assert complaint(*command, *more).startswith(f"Others can read the key in {key}")


def test_an_invite_for_another_coordinator_is_refused(tiny_swarm):
    said = complaint("join", f"{tiny_swarm.url}/#{'s' * 22}.{'0' * 16}")
    assert f"The invite is for a coordinator with the key {'0' * 16}, but {tiny_swarm.url} has " in said


def test_a_node_that_dialled_another_url_is_refused(tiny):
    with Process(["serve", str(tiny), "--port", "0", *OPEN, "--url", "https://swarm.example/"]) as coordinator:
        assert coordinator.wait_for("potluck join").endswith("potluck join https://swarm.example")
        [listener] = psutil.Process(coordinator.popen.pid).net_connections()  # its URL does not tell the port
        url = f"http://127.0.0.1:{listener.laddr.port}"
        assert (
            complaint("join", url)
            == f"You dialled {url}, but this coordinator is https://swarm.example: join with that URL."
        )


@pytest.mark.skipif(sys.platform != "linux", reason="Elsewhere 0.0.0.0 does not lead to this machine.")
def test_a_changed_key_stops_a_node_until_its_owner_forgets_the_old_one(tiny, tmp_path):
    """0.0.0.0 leads to this machine, but it is not a loopback address."""
    mine, first, second = (str(tmp_path / name) for name in ("mine", "first", "second"))
    with Process(["serve", str(tiny), "--port", "0", *OPEN], POTLUCK_DATA=first) as coordinator:
        port = coordinator.wait_for("potluck join").rpartition(":")[2]
        url = f"http://0.0.0.0:{port}"
        with Process(["join", url, "0", *ONE_THREAD], POTLUCK_DATA=mine) as node:
            node.wait_for(f"The connection to {url} is not encrypted")
            node.wait_for(f"{url} has the key ")
            node.wait_for("Serving layers 0 ")
        coordinator.stop()
    with Process(["serve", str(tiny), "--port", port, *OPEN], POTLUCK_DATA=second) as coordinator:
        coordinator.wait_for("potluck join")
        with Process(["join", url, "0", *ONE_THREAD], POTLUCK_DATA=mine) as node:
            assert node.wait() == 1
            assert f"The coordinator at {url} had the key " in node.lines[-1]
            assert f"run 'potluck forget {url}' and join again." in node.lines[-1]
        with Process(["forget", url], POTLUCK_DATA=mine) as forget:
            assert forget.wait() == 0
        with Process(["join", url, "0", *ONE_THREAD], POTLUCK_DATA=mine) as node:
            node.wait_for("Serving layers 0 ")


def test_whoever_is_not_known_cannot_be_forgotten():
    assert complaint("forget", "http://192.0.2.1:1/") == (
        "This machine does not know a coordinator at http://192.0.2.1:1."
    )
