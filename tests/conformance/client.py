"""What the checks send and how they read an answer; an independent client by httpx, json and struct."""

import json
import socket
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import httpx

from tests.raw_http import Wire

X = [[1.0, 2.0, 3.0, 4.0], [-0.5, 0.5, -0.25, 0.25]]  # two rows of the input `x` of the model `conformance`


def x(rows: Any = None, **changes: Any) -> dict[str, Any]:
    """The input `x`, some of whose keys are changed; a value of ... drops the key."""
    rows = X if rows is None else rows
    item = {"name": "x", "datatype": "FP32", "shape": [len(rows), 4], "data": rows} | changes
    return {key: value for key, value in item.items() if value is not ...}


def ok(response: httpx.Response) -> Any:
    """The document of a successful answer."""
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "application/json"
    return response.json()


def refused(response: httpx.Response, *statuses: int) -> str:
    """The sentence of an error: the kserve client compares the content type as a string."""
    assert response.status_code in statuses, f"{response.status_code}: {response.text[:300]}"
    assert response.headers["content-type"] == "application/json"
    body = response.json()
    assert list(body) == ["error"] and isinstance(body["error"], str) and body["error"]
    assert "Traceback" not in body["error"]
    return str(body["error"])


@dataclass
class Server:
    """A server under test, and the names under which it has the models of the suite."""

    http: httpx.Client
    model: str
    echo: str
    extensions: list[str] = field(default_factory=list)
    name: str = ""

    def path(self, rest: str = "", model: str | None = None) -> str:
        return f"/v2/models/{model or self.model}{rest}"

    def post(self, content: bytes, *, model: str | None = None, rest: str = "/infer", **headers: str) -> httpx.Response:
        named = {key.replace("_", "-"): value for key, value in headers.items()}
        return self.http.post(self.path(rest, model), content=content, headers=named)

    def infer(self, *inputs: dict[str, Any], model: str | None = None, **others: Any) -> httpx.Response:
        return self.post(json.dumps({"inputs": list(inputs), **others}).encode(), model=model)

    def infer_binary(self, document: dict[str, Any], data: bytes, length: str | int | None = None) -> httpx.Response:
        """JSON, then `data`; the header's value is the length of the JSON unless another one is given."""
        text = json.dumps(document).encode()
        said = str(len(text) if length is None else length)
        return self.post(text + data, inference_header_content_length=said)

    def predict(self) -> dict[str, Any]:
        """The outputs for `X`, by name: what other ways to ask must give too."""
        return outputs(ok(self.infer(x())))

    def wire(self, timeout_s: float = 20.0) -> Wire:
        url = urlsplit(str(self.http.base_url))
        return Wire(url.hostname or "", url.port or 80, timeout_s)

    def connect(self) -> socket.socket:
        url = urlsplit(str(self.http.base_url))
        return socket.create_connection((url.hostname or "", url.port or 80), timeout=20)

    def send(self, data: bytes, *, read: bool = True) -> bytes:
        """Bytes as they are over a connection of their own; the first bytes of the answer."""
        with self.connect() as connection:
            connection.sendall(data)
            return connection.recv(65536) if read else b""


def outputs(document: dict[str, Any]) -> dict[str, Any]:
    """Data by name, flat."""
    return {output["name"]: _flat(output["data"]) for output in document["outputs"]}


def binary_outputs(response: httpx.Response) -> dict[str, bytes]:
    """Binary data by name; all of what follows the JSON belongs to an output."""
    assert response.status_code == 200, response.text
    length = int(response.headers["inference-header-content-length"])
    assert response.headers["content-type"] == "application/octet-stream"
    found, at = {}, length
    for output in json.loads(response.content[:length])["outputs"]:
        size = output.get("parameters", {}).get("binary_data_size")
        if size is not None:
            found[output["name"]] = response.content[at : at + size]
            at += size
    assert at == len(response.content)
    return found


def _flat(data: Any) -> list[Any]:
    return [element for part in data for element in _flat(part)] if isinstance(data, list) else [data]
