"""Addresses as people give them to commands: with a path too much, with the wrong scheme, of something else."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

import potluck as library
from kit.certificates import Certificate, self_signed
from kit.processes import LOCAL, PRIVATE, complaint, potluck
from potluck.local import LocalSwarm, Process

JOIN = ("--dry-run", "--on-battery")


@contextmanager
def answering(status: int, body: str = "", port: int = 0, **headers: str) -> Iterator[str]:
    """The URL of a server that answers everything with this."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body.encode())

        do_POST = do_GET

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", port), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def answered() -> Iterator[Callable[..., str]]:
    with ExitStack() as stack:
        yield lambda *reply, **headers: stack.enter_context(answering(*reply, **headers))


@pytest.mark.parametrize("path", ["/", "/v1", "/v1/", "/v1/chat/completions"])
def test_a_base_url_leads_to_the_coordinator(tiny_swarm: LocalSwarm, path: str) -> None:
    url = tiny_swarm.url + path
    assert "Every layer is covered." in potluck("status", url).stdout
    assert potluck("join", url, *JOIN).returncode == 0
    assert f"{tiny_swarm.url} answers" in " ".join(potluck("doctor", url).stdout.split())
    assert library.connect(url).status()["covered"]
    assert "Talking to tiny." in potluck("chat", url.replace("http://", "ws://")).stdout


def test_a_path_too_much_is_told(tiny_swarm: LocalSwarm, start) -> None:
    told = "answers 404 (There is nothing at /chat/node): check the address."
    url = f"{tiny_swarm.url}/chat"
    assert complaint("join", url) == f"There is no coordinator at {url}: the server there {told}"
    assert complaint("join", url, *JOIN) == f"There is no coordinator at {url}: the server there {told}"
    assert complaint("status", url) == "There is nothing at /chat/status."
    private = start(*PRIVATE)
    assert told in complaint("join", f"{private.url}/chat")


PAGE = {"Content-Type": "text/html"}


def test_a_web_page_is_no_coordinator(answered: Callable[..., str]) -> None:
    url = answered(200, "<html>Please sign in.</html>", **PAGE)
    assert complaint("status", url) == f"{url} answers, but it is not a Potluck coordinator."
    assert complaint("chat", url) == f"{url} answers, but it is not a Potluck coordinator."
    page = f"There is no coordinator at {url}: a web page answers there, with 200"
    assert complaint("join", url).startswith(page)
    assert complaint("join", url, *JOIN).startswith(page)
    assert "it is not a Potluck coordinator" in " ".join(potluck("doctor", url).stdout.split())


def test_a_server_without_a_coordinator_is_told(answered: Callable[..., str]) -> None:
    url = answered(404, "<html>Not Found</html>", **PAGE)
    assert complaint("status", url) == (
        f"There is no coordinator at {url}: the server there answers 404 Not Found. Check the address."
    )
    assert complaint("join", url) == (
        f"There is no coordinator at {url}: the server there answers 404: check the address."
    )


def test_a_redirect_is_told(answered: Callable[..., str]) -> None:
    url = answered(302, Location="https://portal.example/login")
    told = complaint("status", url)
    assert told == f"{url} redirects to https://portal.example/login: give the address of the coordinator itself."
    assert "it redirects to https://portal.example/login" in complaint("join", url)


def test_a_proxy_without_its_coordinator_is_told_and_waited_for(answered: Callable[..., str]) -> None:
    url = answered(502, "<html>Bad Gateway</html>", **PAGE)
    assert complaint("status", url) == (
        f"The server at {url} answers 502 Bad Gateway: it is a proxy, and the coordinator behind it does not answer."
    )
    with Process(["join", url, "--on-battery"]) as node:
        assert "the server there answers 502" in node.wait_for("trying again")
        assert node.stop() == 0


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return self_signed(tmp_path_factory.mktemp("tls"))


def test_tls_where_there_is_none_is_told(tiny_swarm: LocalSwarm) -> None:
    url = tiny_swarm.url.replace("http", "https")
    told = "TLS is not spoken there, so write http:// instead of https://."
    assert complaint("status", url) == f"No coordinator can be reached at {url}: {told}"
    assert complaint("join", url) == f"There is no coordinator at {url}: {told}"


def test_tls_that_was_not_expected_is_told(tiny: Path, certificate: Certificate) -> None:
    with Process(["serve", str(tiny), "--port", "0", *LOCAL, *certificate.options]) as coordinator:
        secure = coordinator.wait_for("Serving").split(" at ")[1].split()[0]
        url = secure.replace("https", "http")
        assert "write https:// instead of http://." in complaint("status", url)
        assert complaint("join", url) == (
            f"There is no coordinator at {url}: TLS is spoken there, so write https:// instead of http://."
        )
        for command in ("status", "join"):
            assert "its certificate is not trusted here (self-signed certificate)" in complaint(command, secure)


def test_a_node_that_was_admitted_waits_whatever_answers_in_the_coordinators_place(tiny: Path) -> None:
    with LocalSwarm(tiny, [], serve=LOCAL) as swarm:
        node = swarm.add_node("0")
        node.wait_for("Serving layers 0 of")
        swarm.coordinator.stop()
        with answering(404, port=int(swarm.url.rpartition(":")[2])):
            assert "trying again" in node.wait_for("the server there answers 404")
        assert node.stop() == 0
