"""R16 mixed, R17 raw, R18 lies about lengths, R19 compression, R20 chunks."""

import gzip
import json
import struct
import zlib
from collections.abc import Iterator
from typing import Any

import pytest

from tests.conformance.client import Server, X, binary_outputs, ok, outputs, refused, x

DATA = struct.pack("<8f", *X[0], *X[1])
BINARY = x(data=..., parameters={"binary_data_size": len(DATA)})
OUTPUT: dict[str, Any] = {"parameters": {"binary_data_output": True}}


def test_r16_binary_in_json_out(server: Server) -> None:
    answer = server.infer_binary({"inputs": [BINARY]}, DATA)
    assert "inference-header-content-length" not in answer.headers
    assert outputs(ok(answer)) == server.predict()


def test_r16_json_in_binary_out(server: Server) -> None:
    got = binary_outputs(server.infer(x(), **OUTPUT))
    expected = server.predict()
    assert got["label"] == struct.pack("<2q", *expected["label"])
    assert got["probabilities"] == struct.pack("<4f", *expected["probabilities"])


def test_r16_an_output_decides_for_itself(server: Server) -> None:
    wanted = [{"name": "probabilities"}, {"name": "label", "parameters": {"binary_data": False}}]
    assert list(binary_outputs(server.infer(x(), outputs=wanted, **OUTPUT))) == ["probabilities"]
    wanted = [{"name": "probabilities"}, {"name": "label", "parameters": {"binary_data": True}}]
    assert list(binary_outputs(server.infer_binary({"inputs": [BINARY], "outputs": wanted}, DATA))) == ["label"]


def test_r16_the_header_may_count_the_whole_body(server: Server) -> None:
    assert outputs(ok(server.infer_binary({"inputs": [x()]}, b""))) == server.predict()


@pytest.mark.parametrize("rows", [1, 2, 5])
def test_r17_a_raw_body_is_the_only_input(server: Server, rows: int) -> None:
    got = binary_outputs(server.post(DATA[:16] * rows, inference_header_content_length="0"))
    assert got["label"] == struct.pack("<q", server.predict()["label"][0]) * rows
    assert len(got["probabilities"]) == 8 * rows


@pytest.mark.parametrize("body", [DATA[:15], DATA[:12], DATA + b"x"])
def test_r17_a_raw_body_that_is_no_whole_row_is_refused(server: Server, body: bytes) -> None:
    refused(server.post(body, inference_header_content_length="0"), 400)


def test_r17_a_raw_body_needs_a_model_with_one_input(server: Server) -> None:
    refused(server.post(DATA, model=server.echo, inference_header_content_length="0"), 400)


@pytest.mark.parametrize(
    "length", ["-1", "x", "1.0", "0x10", "", "1e2", "99999999", "9" * 30, "9" * 5000, "1", "7", "10 10", "+5"]
)
def test_r18_header_lengths_that_lie_are_refused(server: Server, length: str) -> None:
    refused(server.infer_binary({"inputs": [BINARY]}, DATA, length), 400)


@pytest.mark.parametrize("shift", [-2, -1, 1, 2, 16, 32])
def test_r18_a_header_length_is_exact(server: Server, shift: int) -> None:
    text = json.dumps({"inputs": [BINARY]})
    refused(server.infer_binary({"inputs": [BINARY]}, DATA, len(text) + shift), 400)


@pytest.mark.parametrize("size", [-1, 0, 1, 31, 33, 2**31, 2**63, 2**64, "32", True, 32.0])
def test_r18_sizes_that_lie_are_refused(server: Server, size: Any) -> None:
    item = BINARY | {"parameters": {"binary_data_size": size}}
    refused(server.infer_binary({"inputs": [item]}, DATA), 400)


@pytest.mark.parametrize("data", [b"", DATA[:-1], DATA + b"x", DATA * 2])
def test_r18_data_that_is_short_or_left_over_is_refused(server: Server, data: bytes) -> None:
    refused(server.infer_binary({"inputs": [BINARY]}, data), 400)


def test_r18_data_twice_and_data_nowhere_are_refused(server: Server) -> None:
    refused(server.infer_binary({"inputs": [x(parameters={"binary_data_size": len(DATA)})]}, DATA), 400)
    refused(server.infer(BINARY), 400)
    refused(server.infer(x(data=...)), 400)


@pytest.mark.parametrize("value", ["true", 1, None])
@pytest.mark.parametrize("where", ["binary_data", "binary_data_output"])
def test_r18_binary_or_not_is_a_boolean(server: Server, where: str, value: Any) -> None:
    others: dict[str, Any] = {"parameters": {where: value}}
    if where == "binary_data":
        others = {"outputs": [{"name": "label", "parameters": {where: value}}]}
    refused(server.infer(x(), **others), 400)


@pytest.mark.parametrize("compress", [("gzip", gzip.compress), ("deflate", zlib.compress)], ids=lambda pair: pair[0])
def test_r19_compressed_requests(server: Server, compress: Any) -> None:
    """The length of the JSON part is that of the decompressed body."""
    name, pack = compress
    text = json.dumps({"inputs": [BINARY]}).encode()
    length = str(len(text))
    answer = server.post(pack(text + DATA), content_encoding=name, inference_header_content_length=length)
    assert outputs(ok(answer)) == server.predict()
    plain = json.dumps({"inputs": [x()]}).encode()
    assert outputs(ok(server.post(pack(plain), content_encoding=name))) == server.predict()
    refused(server.post(text + DATA, content_encoding=name, inference_header_content_length=length), 400)
    refused(server.post(pack(text + DATA)[:-5], content_encoding=name, inference_header_content_length=length), 400)


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "identity"])
def test_r19_compressed_answers(server: Server, encoding: str) -> None:
    """A server may leave an answer as it is, but what it says of it must be true; httpx expands it."""
    for others in ({}, OUTPUT):
        body = json.dumps({"inputs": [x(X * 100)], **others}).encode()
        answer = server.post(body, accept_encoding=encoding)
        assert answer.headers.get("content-encoding", encoding) == encoding
        if others:
            assert len(binary_outputs(answer)["label"]) == 200 * 8
        else:
            assert outputs(ok(answer))["label"] == server.predict()["label"] * 100


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_r20_chunked_bodies(server: Server, size: int) -> None:
    text = json.dumps({"inputs": [BINARY]}).encode()
    body = text + DATA

    def chunks() -> Iterator[bytes]:
        for at in range(0, len(body), size):
            yield body[at : at + size]

    headers = {"inference-header-content-length": str(len(text))}
    assert outputs(ok(server.http.post(server.path("/infer"), content=chunks(), headers=headers))) == server.predict()
