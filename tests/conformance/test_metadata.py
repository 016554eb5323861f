"""R3 metadata, R4 versions, R5 unknown models, R24 errors of the router, R25 repository, R26 statistics, R27 names."""

from typing import Any

import pytest

from tests.conformance.client import Server, ok, refused, x


@pytest.mark.parametrize("path", ["/v2", "/v2/"])
def test_r03_server_metadata_without_a_redirect(server: Server, path: str) -> None:
    about = ok(server.http.get(path))
    assert isinstance(about["name"], str) and isinstance(about["version"], str)
    assert all(isinstance(extension, str) for extension in about["extensions"])


def test_r03_model_metadata(server: Server) -> None:
    about = ok(server.http.get(server.path()))
    assert about["name"] == server.model
    assert "1" in about["versions"] and all(isinstance(version, str) for version in about["versions"])
    assert isinstance(about["platform"], str)
    assert about["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}]
    assert about["outputs"] == [
        {"name": "label", "datatype": "INT64", "shape": [-1]},
        {"name": "probabilities", "datatype": "FP32", "shape": [-1, 2]},
    ]


def test_r04_a_version_in_the_path(server: Server) -> None:
    assert ok(server.http.get(server.path("/versions/1")))["name"] == server.model
    answer = ok(server.http.post(server.path("/versions/1/infer"), json={"inputs": [x()]}))
    assert answer["model_name"] == server.model
    assert answer["model_version"] == "1"


def test_r04_the_version_of_an_answer_is_a_string(server: Server) -> None:
    assert isinstance(ok(server.infer(x()))["model_version"], str)


@pytest.mark.parametrize("version", ["999", "01", "latest"])
def test_r04_unknown_versions_are_not_found(server: Server, version: str) -> None:
    refused(server.http.get(server.path(f"/versions/{version}")), 404)
    refused(server.http.post(server.path(f"/versions/{version}/infer"), json={"inputs": [x()]}), 404)


def test_r05_unknown_models_are_not_found(server: Server) -> None:
    refused(server.http.get(server.path("", "no-such-model")), 404)
    refused(server.infer(x(), model="no-such-model"), 404)


@pytest.mark.parametrize("path", ["/", "/v2/nothing", "/v2/models/m/nothing", "/v3", "/v2/health"])
def test_r24_unknown_paths_are_not_found(server: Server, path: str) -> None:
    refused(server.http.get(path), 404)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v2/models/{m}/infer"),
        ("PUT", "/v2/models/{m}/infer"),
        ("POST", "/v2/health/live"),
        ("DELETE", "/v2/models/{m}"),
        ("POST", "/v2"),
    ],
)
def test_r24_other_methods_are_not_allowed(server: Server, method: str, path: str) -> None:
    refused(server.http.request(method, path.replace("{m}", server.model)), 405)


@pytest.mark.parametrize("encoding", ["br", "zstd", "x"])
def test_r24_unknown_content_encodings_are_not_supported(server: Server, encoding: str) -> None:
    refused(server.post(b"{}", content_encoding=encoding), 415)


def test_r25_the_index_lists_every_version(server: Server) -> None:
    extends(server, "model_repository")
    rows = ok(server.http.post("/v2/repository/index", content=b""))
    assert {(row["name"], row["version"]) for row in rows} >= {(server.model, "1"), (server.echo, "1")}
    assert all(isinstance(row["state"], str) and isinstance(row.get("reason", ""), str) for row in rows)
    ready = ok(server.http.post("/v2/repository/index", json={"ready": True}))
    assert {row["name"] for row in ready} >= {server.model, server.echo}
    assert all(row["state"] == "READY" for row in ready)


def test_r25_a_failed_load_keeps_what_is_served(server: Server) -> None:
    if not any(name.startswith("model_repository") and "(" not in name for name in server.extensions):
        pytest.skip("the server announces no loading of models")
    refused(server.http.post("/v2/repository/models/no-such-model/load", json={}), 400, 404)
    ok(server.http.get(server.path("/ready")))


def test_r26_statistics_count_requests_and_executions(server: Server) -> None:
    extends(server, "statistics")
    before = _statistics(server)
    for _ in range(3):
        server.predict()
    after = _statistics(server)
    assert after["inference_stats"]["success"]["count"] - before["inference_stats"]["success"]["count"] == 3
    assert after["execution_count"] - before["execution_count"] == 3
    success = after["inference_stats"]["success"]["ns"] - before["inference_stats"]["success"]["ns"]
    compute = after["inference_stats"]["compute_infer"]["ns"] - before["inference_stats"]["compute_infer"]["ns"]
    assert 0 < compute <= success


@pytest.mark.parametrize(
    "name",
    ["..", "%2e%2e", "%2e%2e%2f%2e%2e%2fetc%2fpasswd", "%00", "%0a%0dx", "%ff", "%F0%9F%98%80", "a" * 5000, "%25", " "],
)
def test_r27_strange_names_are_refused(server: Server, name: str) -> None:
    """Sent as they are: a client library would tidy them."""
    for rest in ("", "/infer"):
        method = "POST" if rest else "GET"
        head = f"{method} /v2/models/{name.replace(' ', '%20')}{rest} HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n"
        status = int(server.send(head.encode()).split(b" ", 2)[1])
        assert status in (400, 404, 405, 414)


def test_r27_a_name_may_be_percent_encoded(server: Server) -> None:
    encoded = "".join(f"%{ord(letter):02x}" for letter in server.model)
    assert ok(server.http.get(f"/v2/models/{encoded}"))["name"] == server.model


def extends(server: Server, extension: str) -> None:
    if not any(name.startswith(extension) for name in server.extensions):
        pytest.skip(f"the server does not announce {extension!r}")


def _statistics(server: Server) -> Any:
    rows = ok(server.http.get(server.path("/versions/1/stats")))["model_stats"]
    return next(row for row in rows if row["version"] == "1")
