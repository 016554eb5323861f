"""Options of the suite, and the server under test."""

from collections.abc import Iterator

import httpx
import pytest

from tests.conformance.client import Server, ok


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--base-url", help="the server under test; default: the gateway of the test session")
    parser.addoption("--model", default="conformance", help="the name of the suite's model `conformance`")
    parser.addoption("--echo-model", default="echo", help="the name of the suite's model `echo`")


@pytest.fixture(scope="session")
def base_url(request: pytest.FixtureRequest) -> str:
    given = request.config.getoption("--base-url", None)
    # the session's gateway, which serves tests.conformance.models.MODELS
    return str(given or request.getfixturevalue("gaugeway_url")).rstrip("/")


@pytest.fixture(scope="session")
def server(request: pytest.FixtureRequest, base_url: str) -> Iterator[Server]:
    option = request.config.getoption
    with httpx.Client(base_url=base_url, timeout=30, trust_env=False) as http:
        about = ok(http.get("/v2"))
        model, echo = option("--model", "conformance"), option("--echo-model", "echo")
        yield Server(http, model, echo, about.get("extensions", []), about["name"])


@pytest.fixture(autouse=True)
def still_healthy(server: Server) -> Iterator[None]:
    """Whatever a check sends, the server lives on and answers as before."""
    yield
    assert server.http.get("/v2/health/live").status_code == 200
    assert len(server.predict()["label"]) == 2
