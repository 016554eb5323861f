"""The replay client against a small real server that writes down what it gets."""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import pytest
from aiohttp import web

from serving.demo.replay import GIVE_UP_AFTER, Replay, Target
from serving.demo.traffic import Traffic, rfc3339
from serving.errors import GaugewayError

HOUR_S = 3600.0


@dataclass
class Got:
    """One request as the server saw it, and how many predictions it had answered by then."""

    headers: Mapping[str, str]
    body: bytes
    answered: int


@dataclass
class Server:
    """Answers predictions with the row's first value; `refuse` may answer instead."""

    refuse: Callable[[str, int], int | None] = lambda path, n: None
    predictions: list[Got] = field(default_factory=list)
    labels: list[Got] = field(default_factory=list)
    answered: list[str] = field(default_factory=list)
    running: int = 0
    most_running: int = 0

    async def predict(self, request: web.Request) -> web.Response:
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        body = await request.read()
        self.predictions.append(Got(request.headers, body, len(self.answered)))
        n = len(self.predictions)
        await asyncio.sleep(0.001 * (n % 3))  # answers overtake each other
        self.running -= 1
        if status := self.refuse("infer", n):
            return web.json_response({"error": "no"}, status=status)
        self.answered.append(request.headers["x-request-id"])
        row = np.frombuffer(body[int(request.headers["Inference-Header-Content-Length"]) :], "<f4")
        output = {"name": "probabilities", "datatype": "FP32", "shape": [1, 2], "data": [0.0, float(row[0])]}
        version = "2" if request.headers["x-user-id"] == "b" else "1"
        return web.json_response({"outputs": [output]}, headers={"x-gaugeway-version": version})

    async def label(self, request: web.Request) -> web.Response:
        self.labels.append(Got(request.headers, await request.read(), len(self.answered)))
        if status := self.refuse("labels", len(self.labels)):
            return web.json_response({"error": "away"}, status=status)
        return web.json_response({"joined": 1, "parked": 0, "unknown": 0, "refused": []})


async def served(server: Server, use: Callable[[str], Awaitable[None]]) -> None:
    app = web.Application()
    app.add_routes([web.post("/v2/models/m/infer", server.predict), web.post("/v1/models/m/labels", server.label)])
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        await use(f"http://127.0.0.1:{runner.addresses[0][1]}")
    finally:
        await runner.cleanup()


def replayed(server: Server, traffic: Traffic, speed: float | None = None, concurrency: int = 8) -> Replay:
    replays: list[Replay] = []

    async def use(url: str) -> None:
        target = Target(url, "m", "features", "probabilities", 1)
        replays.append(Replay(traffic, target, speed=speed, concurrency=concurrency))
        await replays[0].run()

    asyncio.run(served(server, use))
    return replays[0]


def traffic(n: int, every_s: float = 600.0, delay_s: float = 2 * HOUR_S) -> Traffic:
    """Every third row has a missing value; every fifth never gets a label; every second key is "b"."""
    times = 1364774400 + every_s * np.arange(n)
    rows = np.stack([np.arange(n) / n, np.where(np.arange(n) % 3, 1.5, np.nan)], axis=1).astype(np.float32)
    known = np.arange(n) % 5 > 0
    return Traffic(
        [f"flight-{i}" for i in range(n)], ["ab"[i % 2] for i in range(n)], times, rows,
        np.where(known, times + delay_s, np.nan), np.where(known, np.arange(n) % 2, np.nan),
    )  # fmt: skip


def test_every_row_arrives_once_to_the_bit_with_its_key_id_and_time() -> None:
    server, sent = Server(), traffic(100)
    progress = replayed(server, sent).progress
    assert (progress.answered, progress.failed) == (100, 0)
    assert sorted(server.answered) == sorted(sent.ids)
    for got in server.predictions:
        index = sent.ids.index(got.headers["x-request-id"])
        assert got.headers["x-user-id"] == sent.keys[index]
        assert got.headers["x-gaugeway-event-time"] == rfc3339(sent.times[index])
        length = int(got.headers["Inference-Header-Content-Length"])
        (tensor,) = json.loads(got.body[:length])["inputs"]
        assert (tensor["name"], tensor["datatype"], tensor["shape"]) == ("features", "FP32", [1, 2])
        assert tensor["parameters"]["binary_data_size"] == len(got.body) - length
        assert got.body[length:] == sent.rows[index].tobytes()


def test_answers_are_kept_in_the_order_of_the_traffic() -> None:
    sent = traffic(50)
    progress = replayed(Server(), sent).progress
    assert np.allclose(progress.predictions, sent.rows[:, 0])
    assert progress.versions == ["1", "2"] * 25
    assert {name: (share.requests, share.keys) for name, share in progress.shares.items()} == {
        "1": (25, {"a"}),
        "2": (25, {"b"}),
    }
    assert np.all(progress.latency_s > 0)


def test_labels_follow_their_predictions_in_order_of_time() -> None:
    server, sent = Server(), traffic(200, delay_s=60.0)
    progress = replayed(server, sent).progress
    lines = [(got.answered, json.loads(line)) for got in server.labels for line in got.body.splitlines()]
    assert progress.labels.sent == len(lines) == sent.labelled
    assert [label["time"] for _, label in lines] == sorted(label["time"] for _, label in lines)
    for answered, label in lines:
        assert label["id"] in server.answered[:answered]
        index = sent.ids.index(label["id"])
        assert (label["row"], label["label"]) == (0, sent.labels[index])
        assert label["time"] == rfc3339(sent.label_times[index])


def test_requests_leave_in_order_within_the_bound() -> None:
    server, sent = Server(), traffic(200)
    replayed(server, sent, concurrency=8)
    places = [sent.ids.index(got.headers["x-request-id"]) for got in server.predictions]
    assert max(abs(place - at) for at, place in enumerate(places)) < 8
    assert 1 < server.most_running <= 8


def test_failures_are_counted_and_the_first_few_told() -> None:
    server = Server(refuse=lambda path, n: 500 if path == "infer" and n <= 7 else None)
    progress = replayed(server, traffic(40)).progress
    assert (progress.answered, progress.failed) == (33, 7)
    assert len(progress.failures) == 5
    assert '500 {"error": "no"}' in progress.failures[0]
    assert np.isnan(progress.predictions).sum() == progress.versions.count("") == 7


def test_labels_are_offered_again_until_they_are_taken() -> None:
    server = Server(refuse=lambda path, n: 503 if path == "labels" and n <= 2 else None)
    progress = replayed(server, traffic(20, delay_s=60.0)).progress
    assert (progress.labels.sent, progress.labels.failed) == (16, 0)
    assert server.labels[0].body == server.labels[1].body == server.labels[2].body


def test_labels_that_are_refused_for_good_are_counted() -> None:
    server = Server(refuse=lambda path, n: 400 if path == "labels" else None)
    progress = replayed(server, traffic(20)).progress
    assert (progress.labels.sent, progress.labels.failed) == (0, 16)
    assert progress.failures[0].startswith("labels: 400")


def test_it_gives_up_when_nothing_works() -> None:
    server = Server(refuse=lambda path, n: 500 if n > 10 else None)
    with pytest.raises(GaugewayError, match=f"gave up after {GIVE_UP_AFTER} failed requests in a row"):
        replayed(server, traffic(1000))
    assert len(server.predictions) < 10 + GIVE_UP_AFTER + 10


def test_it_keeps_the_pace() -> None:
    """An hour of event time at 7,200 seconds a second takes half a second."""
    started = time.monotonic()
    progress = replayed(Server(), traffic(7, delay_s=60.0), speed=7200.0).progress
    assert 0.5 <= time.monotonic() - started < 5
    assert progress.answered == 7
