"""500 slow clients beside a good one: they are closed in time, it hardly notices, and memory stays bounded."""

import http.client
import time
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import psutil

from tests.faults.load import body
from tests.faults.slow_clients import Seen, slow_clients
from tests.gateway import Gateway, until

CLIENTS, ROUNDS, ROUND_S = 500, 2, 6.5
HEAD_S = BODY_IDLE_S = 5.0
SLACK_S = 3.0
MAX_BYTES_PER_CLIENT = 2**17


def latencies(url: str, model: str, for_s: float) -> list[float]:
    """Of a client that asks one request after the other and reads its answers, in seconds."""
    where, sent, found = urlsplit(url), body(1.0).replace(b"[1, 1]", b"[1, 2]").replace(b"[1.0]", b"[1.0, 2.0]"), []
    connection = http.client.HTTPConnection(where.hostname or "", where.port, timeout=20)
    end = time.monotonic() + for_s
    while time.monotonic() < end:
        start = time.perf_counter()
        connection.request("POST", f"/v2/models/{model}/infer", sent)
        response = connection.getresponse()
        content = response.read()
        found.append(time.perf_counter() - start)
        assert response.status == 200, content
    connection.close()
    return found


def memory_bytes(process: int) -> int:
    status = Path(f"/proc/{process}/status").read_text()
    return int(status.partition("RssAnon:")[2].split()[0]) * 1024


def test_500_slow_clients_leave_a_good_one_its_latency(gateway: Gateway) -> None:
    port, worker = urlsplit(gateway.url).port or 0, psutil.Process(gateway.process_id("worker-0"))
    alone, beside, seen = list[float](), list[float](), list[dict[str, Seen]]()
    latencies(gateway.url, "linear", 1.0)
    before, descriptors, most = memory_bytes(worker.pid), worker.num_fds(), 0
    for _ in range(ROUNDS):  # interleaved, so that what else the machine does falls on both
        alone += latencies(gateway.url, "linear", ROUND_S)
        with slow_clients(port, "conformance", CLIENTS) as these:
            until(lambda: worker.num_fds() >= descriptors + CLIENTS, "the slow clients", 20)
            beside += latencies(gateway.url, "linear", ROUND_S)
            most = max(most, memory_bytes(worker.pid))
        seen.append(these)
        until(lambda: worker.num_fds() <= descriptors + 2, "their end", 10)
    for quantile in (0.5, 0.99):
        undisturbed, disturbed = np.quantile(alone, quantile), np.quantile(beside, quantile)
        print(f"p{quantile * 100:g}: {undisturbed * 1e3:.2f} ms alone, {disturbed * 1e3:.2f} ms beside {CLIENTS}")
        assert disturbed < 2 * undisturbed
    print(f"memory: {(most - before) / 2**20:.1f} MiB more; {seen[-1]}")
    assert most - before < CLIENTS * MAX_BYTES_PER_CLIENT
    for these in seen:
        _closed_in_time(these)


def _closed_in_time(seen: dict[str, Seen]) -> None:
    """Within the round every one that sends too slowly was closed once, with its status; readers have longer."""
    for kind in ("head", "body", "stall"):
        assert set(seen[kind].ended) == {408} and seen[kind].ended[408] >= CLIENTS // 4, (kind, seen[kind])
        assert HEAD_S - 0.5 < seen[kind].longest_s < BODY_IDLE_S + SLACK_S, (kind, seen[kind])
    assert seen["reader"].opened == CLIENTS // 4
