"""Gaugeway beside the ceiling on the same model, driven by wrk in interleaved rounds: ``make bench``.

Everything of Gaugeway is on: routing between versions' weights, metrics, records, monitors. Only ratios of one run
mean anything: machines are shared. Writes docs/benchmarks.md.
"""

import argparse
import json
import os
import platform
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from rich.progress import Progress

from loadtests import boosting

CONNECTIONS = (1, 32, 128)
PATH = "/v2/models/m/infer"
LUA = """
wrk.method = "POST"
wrk.headers["content-type"] = "application/json"
wrk.body = '{body}'
"""


@dataclass(frozen=True)
class Round:
    """One run of wrk."""

    requests_per_s: float
    p50_s: float
    p99_s: float
    failed: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, epilog="Example: python -m loadtests.bench --rounds 3")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=5, help="of each round")
    parser.add_argument("--out", type=Path, default=Path("docs/benchmarks.md"))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        script = Path(folder) / "request.lua"
        script.write_text(LUA.format(body=_body()))
        (Path(folder) / "m.onnx").write_bytes(boosting.model(boosting.rows()))
        urls = {
            "gaugeway": stack.enter_context(_gaugeway(Path(folder))),
            "ceiling": stack.enter_context(_ceiling(Path(folder))),
        }
        rounds = _measure(urls, script, arguments.rounds, arguments.seconds)
    arguments.out.write_text(_page(rounds, arguments))
    print(arguments.out.read_text())


def _measure(urls: dict[str, str], script: Path, rounds: int, seconds: int) -> dict[tuple[str, int], list[Round]]:
    found: dict[tuple[str, int], list[Round]] = {}
    with Progress() as progress:
        task = progress.add_task("wrk", total=(rounds + 1) * len(urls) * len(CONNECTIONS))
        for turn in range(rounds + 1):  # the first warms
            for connections in CONNECTIONS:
                for name, url in urls.items():
                    one = _wrk(url, connections, script, seconds if turn else 1)
                    if turn:
                        found.setdefault((name, connections), []).append(one)
                    progress.advance(task)
    return found


def _wrk(url: str, connections: int, script: Path, seconds: int) -> Round:
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "-s", str(script), "--latency", url + PATH]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    failed = sum(int(n) for n in re.findall(r"Non-2xx or 3xx responses: (\d+)", text))
    return Round(
        float(re.findall(r"Requests/sec:\s+([\d.]+)", text)[0]), _quantile(text, 50), _quantile(text, 99), failed
    )


def _quantile(text: str, percent: int) -> float:
    number, unit = re.findall(rf"^\s+{percent}%\s+([\d.]+)(us|ms|s)$", text, re.M)[0]
    return float(number) * {"us": 1e-6, "ms": 1e-3, "s": 1.0}[unit]


@contextmanager
def _gaugeway(folder: Path) -> Iterator[str]:
    reference, config = folder / "reference.parquet", folder / "gaugeway.toml"
    boosting.write_reference(boosting.rows(seed=1), str(reference))
    ports = _free_ports(4)
    config.write_text(
        f'data_dir = "{folder / "data"}"\n[gateway]\nport = {ports[0]}\n[admin]\nport = {ports[1]}\n'
        f"[metrics]\nnode_port = {ports[2]}\ncontroller_port = {ports[3]}\n"
    )
    command = [sys.executable, "-m", "serving.cli"]
    what = ["--task", "classification", "--prediction", "probabilities:1", "--features", ",".join(boosting.FEATURES)]
    rows = ["--reference", str(reference), "--label", "label", "--config", str(config)]
    subprocess.run([*command, "publish", "m", str(folder / "m.onnx"), *what, *rows], check=True, capture_output=True)
    with _process([*command, "up", "--config", str(config)]):
        yield _when_ready(f"http://127.0.0.1:{ports[0]}")


@contextmanager
def _ceiling(folder: Path) -> Iterator[str]:
    port = _free_ports(1)[0]
    with _process([sys.executable, "-m", "loadtests.ceiling", str(folder / "m.onnx"), "--port", str(port)]):
        yield _when_ready(f"http://127.0.0.1:{port}")


@contextmanager
def _process(command: list[str]) -> Iterator[None]:
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.terminate()
        process.wait(60)


def _when_ready(url: str, timeout_s: float = 90.0) -> str:
    until = time.monotonic() + timeout_s
    while True:
        try:
            request = urllib.request.Request(url + PATH, _body().encode(), {"content-type": "application/json"})
            with urllib.request.urlopen(request, timeout=2):
                return url
        except OSError:
            if time.monotonic() > until:
                raise
            time.sleep(0.2)


def _body() -> str:
    return json.dumps({"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 16], "data": boosting.ROW}]})


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def _page(rounds: dict[tuple[str, int], list[Round]], arguments: argparse.Namespace) -> str:
    lines = [
        "# Benchmarks",
        "",
        f"Written by `python -m loadtests.bench --rounds {arguments.rounds} --seconds {arguments.seconds}`"
        " (`make bench`): medians over interleaved rounds of `wrk -t1` on one machine; only the ratios mean anything.",
        "Model: 16 floats -> gradient boosting, 100 trees; JSON, one row a request. Gaugeway: one worker, one replica;"
        " routing, metrics, records and monitors on. The ceiling:"
        " uvicorn + orjson + onnxruntime in one process, nothing else.",
        "",
        f"Machine: {os.cpu_count()} cores, {platform.machine()}; Python {platform.python_version()},"
        f" ray {version('ray')}, onnxruntime {version('onnxruntime')}, uvicorn {version('uvicorn')}, wrk"
        f" {'present' if shutil.which('wrk') else 'missing'}.",
        "",
        "| connections | requests/s | ceiling | ratio | p50 ms | ceiling | p99 ms | ceiling | failed |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for connections in CONNECTIONS:
        ours, ceiling = (_medians(rounds[name, connections]) for name in ("gaugeway", "ceiling"))
        lines.append(
            f"| {connections} | {ours[0]:,.0f} | {ceiling[0]:,.0f} | {ours[0] / ceiling[0]:.2f} | {ours[1] * 1e3:.3f}"
            f" | {ceiling[1] * 1e3:.3f} | {ours[2] * 1e3:.2f} | {ceiling[2] * 1e3:.2f}"
            f" | {sum(r.failed for r in rounds['gaugeway', connections])} |"
        )
    return "\n".join(lines) + "\n"


def _medians(rounds: list[Round]) -> tuple[float, float, float]:
    return (
        statistics.median(r.requests_per_s for r in rounds),
        statistics.median(r.p50_s for r in rounds),
        statistics.median(r.p99_s for r in rounds),
    )


if __name__ == "__main__":
    main()
