"""The same server behind TLS: whole bodies, bounds, and a certificate that is renewed while clients ask."""

import shutil
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from serving.config import Tls
from serving.limits import Limits
from serving.tls import server_context
from tests import certificates
from tests.edge import Listening, listening
from tests.gateway import until
from tests.raw_http import request

QUICK = Limits(head_s=0.7, body_idle_s=0.7, write_s=1.5, max_body_bytes=2**23)


@dataclass
class Site:
    """A server with a pair of its own, and how a client trusts it."""

    files: Tls
    server: Listening

    @property
    def trust(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=self.files.certificate)

    @property
    def url(self) -> str:
        return f"https://localhost:{self.server.port}"


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    files = certificates.write(tmp_path)
    with listening(QUICK, server_context(files)) as server:
        yield Site(files, server)


def test_clients_that_check_the_certificate_are_answered(site: Site) -> None:
    with httpx.Client(base_url=site.url, verify=site.trust, trust_env=False) as client:
        for size in (0, 10, 2**22):
            answer = client.post("/a", content=bytes(size))
            assert answer.status_code == 200 and answer.content == b"POST /a\n" + bytes(size)
        assert client.get("/large/4000000").content == bytes(4_000_000)


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl")
def test_curl_is_answered(site: Site) -> None:
    command = ["curl", "-sS", "--noproxy", "*", "--cacert", site.files.certificate, f"{site.url}/a"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    assert (done.stdout, done.stderr) == ("GET /a\n", "")


def test_requests_sent_ahead_and_closing_are_as_without(site: Site) -> None:
    with site.server.connect(tls=_anyone()) as wire:
        wire.send(b"".join(request(f"/later/{k}") for k in range(20)), request("/z", "Connection: close"))
        got = [answer.body for answer in wire.answers()]
    assert got == [f"GET /later/{k}\n".encode() for k in range(20)] + [b"GET /z\n"]


@pytest.mark.parametrize(
    ("sent", "status"),
    [(b"GET / HTTP/1.1\r\n", 408), (b"nonsense\r\n\r\n", 400), (request("/", "Content-Length: 9", method="POST"), 408)],
)
def test_bounds_hold(site: Site, sent: bytes, status: int) -> None:
    with site.server.connect(tls=_anyone()) as wire:
        assert [answer.status for answer in wire.send(sent).answers()] == [status]


def test_a_refusal_reaches_who_is_still_sending(site: Site) -> None:
    """Were the connection closed at once, a reset would overtake the answer."""
    sent = request("/", f"Content-Length: {QUICK.max_body_bytes + 1}", method="POST")
    for _ in range(5):
        with site.server.connect(tls=_anyone()) as wire:
            assert [answer.status for answer in wire.send(sent, *[bytes(2**18)] * 20).answers()] == [413]


@pytest.mark.parametrize("sent", [b"", b"\x16\x03\x01", request("/")], ids=["nothing", "half a hello", "plain HTTP"])
def test_who_does_not_shake_hands_is_closed_in_time(site: Site, sent: bytes) -> None:
    start = time.monotonic()
    with site.server.connect() as wire:
        wire.send(sent)
        try:
            while wire.socket.recv(1000):
                continue
        except ConnectionError:
            pass
    assert time.monotonic() - start < QUICK.head_s + 1.5


def test_who_does_not_read_is_closed(site: Site) -> None:
    with site.server.connect(tls=_anyone()) as wire:
        wire.send(request(f"/large/{2**20}") * 30)
        until(lambda: len(site.server.echo.asked) > 1, "answers", 5)
        until(lambda: not site.server.server.connections, "the end", 6)
        assert len(site.server.echo.asked) < 25


def test_a_certificate_is_renewed_while_clients_ask_and_no_request_fails(site: Site) -> None:
    """Of a connection that stays and of new ones."""
    seen, failed, stop = set[bytes](), list[Exception](), threading.Event()

    def ask(keep: bool) -> None:
        wire = site.server.connect(tls=_anyone())
        while not stop.is_set():
            try:
                if not keep:
                    wire.close()
                    wire = site.server.connect(tls=_anyone())
                answer = wire.send(request("/later")).answer()
                assert answer is not None and answer.status == 200
                assert isinstance(wire.socket, ssl.SSLSocket)
                seen.add(wire.socket.getpeercert(binary_form=True) or b"")
            except (OSError, AssertionError) as error:
                failed.append(error)
        wire.close()

    threads = [threading.Thread(target=ask, args=(keep,)) for keep in (True, False, False)]
    for thread in threads:
        thread.start()
    for count in (2, 3):
        certificates.write(Path(site.files.certificate).parent, f"number {count}")
        until(lambda count=count: len(seen) == count or failed, "the new certificate", 10)  # type: ignore[misc]
    stop.set()
    for thread in threads:
        thread.join(20)
    assert failed == [] and len(seen) == 3


def _anyone() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context
