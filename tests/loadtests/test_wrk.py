"""wrk's script and its last line, with wrk itself against a small server."""

import threading
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from loadtests import wrk

BODY = bytes(range(256))


class Echo(BaseHTTPRequestHandler):
    """200 for the body that was sent with its header, else 400."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        good = body == BODY and self.headers["X-Kind"] == 'a "quoted" one' and self.path == "/good"
        self.send_response(200 if good else 400)
        self.send_header("content-length", "0")
        self.end_headers()

    def handle(self) -> None:
        with suppress(ConnectionResetError):  # wrk ends in the middle
            super().handle()

    def log_message(self, format: str, *arguments: object) -> None:
        """Nothing."""


@pytest.fixture
def url() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Echo) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def driven(url: str, folder: Path) -> wrk.Run:
    body, script = folder / "body", folder / "request.lua"
    body.write_bytes(BODY)
    script.write_text(wrk.script(body, {"X-Kind": 'a "quoted" one'}))
    return wrk.drive(url, script, connections=2, seconds=1)


def test_every_byte_is_sent_and_every_answer_counted(url: str, tmp_path: Path) -> None:
    run = driven(f"{url}/good", tmp_path)
    assert run.requests > 0 and run.failed == 0
    assert tuple(run.latency_s) == wrk.PERCENTILES
    assert 0 < run.latency_s[50] <= run.latency_s[99] <= run.latency_s[99.99] < 10
    assert run.requests_per_s == pytest.approx(run.requests / run.duration_s)


def test_refusals_are_failures_and_no_requests(url: str, tmp_path: Path) -> None:
    run = driven(f"{url}/bad", tmp_path)
    assert run.requests == 0 and run.failed > 0


def test_an_end_without_a_result_is_said() -> None:
    with pytest.raises(ValueError, match="without a result: 'unable to connect'"):
        wrk.parse("unable to connect\n")
