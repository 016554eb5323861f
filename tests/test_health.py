"""What a container's health check says of a gateway that answers, does not, or never came up."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from serving import health
from serving.config import Config
from serving.errors import NotReady


class Listener(BaseHTTPRequestHandler):
    """A data plane as far as its readiness goes."""

    ready = True

    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/v2/health/ready" and self.ready else 503)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: the test's output is pytest's."""


class Starting(Listener):
    ready = False


@contextmanager
def answering(listener: type[Listener]) -> Iterator[int]:
    """One request."""
    with HTTPServer(("127.0.0.1", 0), listener) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        yield server.server_port


def up(folder: Path, port: int) -> Config:
    config = Config(data_dir=str(folder))
    config.run_dir.mkdir()
    (config.run_dir / "up.json").write_text(json.dumps({"gateway": f"http://127.0.0.1:{port}"}))
    return config


def test_it_asks_where_the_gateway_says_it_listens(tmp_path: Path) -> None:
    with answering(Listener) as port:
        health.check(up(tmp_path, port))


def test_one_that_starts_is_not_healthy_yet(tmp_path: Path) -> None:
    with answering(Starting) as port, pytest.raises(NotReady, match=r"no answer from .*: Service Unavailable"):
        health.check(up(tmp_path, port))


def test_what_ended_and_what_never_came_up_are_not_healthy(tmp_path: Path) -> None:
    with pytest.raises(NotReady, match="no gateway is up"):
        health.check(Config(data_dir=str(tmp_path)))
    with HTTPServer(("127.0.0.1", 0), Listener) as server:
        port = server.server_port
    with pytest.raises(NotReady, match="Connection refused"):
        health.check(up(tmp_path, port))


def test_the_exit_status_and_the_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GAUGEWAY_DATA_DIR", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert health.main() == 1
    assert "no gateway is up" in capsys.readouterr().err
