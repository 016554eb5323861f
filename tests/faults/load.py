"""Load for tests that break things: clients that know the right answer, and wrk, which only counts."""

import http.client
import itertools
import json
import re
import signal
import subprocess
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

LUA = """
local k = 1000000
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
request = function()
  k = k + 1
  return wrk.format(nil, nil, nil, BODY(k))
end
"""


def body(k: float) -> bytes:
    tensor = {"name": "x", "shape": [1, 1], "datatype": "FP32", "data": [k]}
    return json.dumps({"inputs": [tensor]}).encode()


@dataclass
class Load:
    """Clients that ask a model whose answer is its input, each request with another number, until `stop`."""

    url: str
    model: str
    clients: int = 4
    statuses: "Counter[int]" = field(default_factory=Counter)
    wrong: list[tuple[int, object]] = field(default_factory=list)
    refusals: list[bytes] = field(default_factory=list)
    _stopping: threading.Event = field(default_factory=threading.Event)
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    @property
    def answered(self) -> int:
        return self.statuses.total()

    @property
    def failed(self) -> dict[int, int]:
        return {status: n for status, n in self.statuses.items() if status != 200}

    def ask(self) -> None:
        """One client: its answers go to the counters; a connection that breaks is status 0."""
        where = urlsplit(self.url).netloc
        connection = http.client.HTTPConnection(where, timeout=40)
        while not self._stopping.is_set():
            k = next(self._numbers)
            try:
                connection.request("POST", f"/v2/models/{self.model}/infer", body(k))
                response = connection.getresponse()
                status, content = response.status, response.read()
            except (OSError, http.client.HTTPException):
                connection.close()
                status, content = 0, b""
            self.statuses[status] += 1
            if status not in (200, 0) and len(self.refusals) < 10:
                self.refusals.append(content)
            if status == 200 and json.loads(content)["outputs"][0]["data"] != [k]:
                self.wrong.append((k, json.loads(content)))
        connection.close()

    @contextmanager
    def running(self) -> Iterator["Load"]:
        threads = [threading.Thread(target=self.ask) for _ in range(self.clients)]
        for thread in threads:
            thread.start()
        try:
            yield self
        finally:
            self._stopping.set()
            for thread in threads:
                thread.join(60)


@dataclass
class Storm:
    """What wrk counted, when its block has ended."""

    requests: int = 0
    refused: int = 0
    broken: int = 0


@contextmanager
def storm(url: str, model: str, folder: Path, connections: int = 32, duration_s: int = 120) -> Iterator[Storm]:
    """`connections` clients that ask as fast as they are answered until the block ends, `duration_s` at most."""
    script = folder / "storm.lua"
    before, after = body(0.0).decode().split("0.0")
    script.write_text(LUA.replace("BODY(k)", f"'{before}' .. k .. '{after}'"))
    command = ["wrk", "-t1", f"-c{connections}", f"-d{duration_s}s", "--timeout", "40s", "-s", str(script)]
    process = subprocess.Popen([*command, f"{url}/v2/models/{model}/infer"], stdout=subprocess.PIPE, text=True)
    counted = Storm()
    try:
        yield counted
    finally:
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=60)
    assert process.returncode == 0, output
    counted.requests = _number(r"(\d+) requests in", output)
    counted.refused = _number(r"Non-2xx or 3xx responses: (\d+)", output)
    counted.broken = sum(map(int, re.findall(r"(?:connect|read|write|timeout) (\d+)", output)))


def _number(pattern: str, text: str) -> int:
    found = re.search(pattern, text)
    return int(found[1]) if found else 0
