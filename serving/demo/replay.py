"""Replays traffic against a gateway over HTTP: predictions in order of event time, labels when they are due.

Requests are in flight at most `concurrency` at a time. The labels of a tick are sent once every request up to it
is answered, while the next tick's requests are already on their way.
"""

import asyncio
import time
from dataclasses import dataclass, field

import aiohttp
import msgspec
import numpy as np

from serving.demo.traffic import Tick, Traffic, rfc3339, ticks
from serving.errors import GaugewayError
from serving.protocol import Array

TICK_S = 1800.0
LABELS_PER_POST = 1000
LABEL_PATIENCE_S = 60.0  # how long labels are offered again to a gateway that answers 503
GIVE_UP_AFTER = 200  # failures in a row
FAILURES_SHOWN = 5
_JSON = msgspec.json.Encoder()


@dataclass(frozen=True, slots=True)
class Target:
    """Which model at which gateway; its input takes a row, and column `column` of `output` is the prediction."""

    url: str
    model: str
    input: str
    output: str
    column: int
    key_header: str = "x-user-id"


@dataclass(slots=True)
class Share:
    """What one version answered."""

    requests: int = 0
    keys: set[str] = field(default_factory=set)


@dataclass(slots=True)
class LabelCount:
    """What became of the labels: `sent` were acknowledged by the gateway, `failed` never were."""

    sent: int = 0
    failed: int = 0
    refused: int = 0


class Progress:
    """How far a replay is: read at any time, written by the replay alone.

    `versions`, `predictions` and `latency_s` (seconds) have one element per request of the traffic; "" or NaN
    where there is no answer (yet). `clock` is the event time reached, seconds since 1970.
    """

    def __init__(self, traffic: Traffic) -> None:
        self.total = len(traffic)
        self.answered = self.failed = 0
        self.failures: list[str] = []  # the first few, in words
        self.failed_in_row = 0
        self.versions = [""] * self.total
        self.predictions: Array = np.full(self.total, np.nan)
        self.latency_s: Array = np.full(self.total, np.nan)
        self.shares: dict[str, Share] = {}
        self.labels = LabelCount()
        self.clock: float | None = None
        self.elapsed_s = 0.0

    def answer(self, index: int, key: str, version: str, prediction: float, latency_s: float) -> None:
        self.answered += 1
        self.failed_in_row = 0
        self.versions[index], self.predictions[index], self.latency_s[index] = version, prediction, latency_s
        share = self.shares.setdefault(version, Share())
        share.requests += 1
        share.keys.add(key)

    def fail(self, what: str) -> None:
        """Count a request. Raises GaugewayError when nothing has worked for a while."""
        self.failed += 1
        self.failed_in_row += 1
        self.note(what)
        if self.failed_in_row >= GIVE_UP_AFTER:
            raise GaugewayError(f"gave up after {self.failed_in_row} failed requests in a row, the last: {what}")

    def note(self, what: str) -> None:
        if len(self.failures) < FAILURES_SHOWN:
            self.failures.append(what)


class Replay:
    """One run of `traffic` against `target`; `speed` is event seconds a second, None as fast as it goes."""

    def __init__(self, traffic: Traffic, target: Target, *, speed: float | None = None, concurrency: int = 16,
                 timeout_s: float = 30.0) -> None:  # fmt: skip
        self.progress = Progress(traffic)
        self._traffic, self._target, self._speed = traffic, target, speed
        self._concurrency, self._timeout_s = concurrency, timeout_s
        self._head = _head(target, traffic.rows.shape[1])
        self._url = f"{target.url}/v2/models/{target.model}/infer"
        self._labels_url = f"{target.url}/v1/models/{target.model}/labels"

    async def run(self) -> None:
        """Send everything. Raises GaugewayError when the gateway is gone; single failures are only counted."""
        connector = aiohttp.TCPConnector(limit=self._concurrency + 1)  # one for labels
        timeout = aiohttp.ClientTimeout(total=self._timeout_s)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
            try:
                await self._ticks(session)
            except ExceptionGroup as group:
                expected, other = group.split(GaugewayError)
                if expected is None or other is not None:
                    raise
                raise expected.exceptions[0] from None

    async def _ticks(self, session: aiohttp.ClientSession) -> None:
        started = time.monotonic()
        free = asyncio.Semaphore(self._concurrency)
        due: asyncio.Queue[tuple[Tick, list[asyncio.Task[None]]] | None] = asyncio.Queue(maxsize=1)
        tick_s = min(max(self._speed, 1.0), TICK_S) if self._speed else TICK_S
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._send_labels(session, due))
            for tick in ticks(self._traffic, tick_s):
                await self._pace(tick, started)
                self.progress.clock = tick.start
                sent = []
                for index in tick.requests:
                    await free.acquire()
                    sent.append(tasks.create_task(self._predict(session, index)))
                    sent[-1].add_done_callback(lambda _: free.release())
                    self.progress.elapsed_s = time.monotonic() - started
                await due.put((tick, sent))
            await due.put(None)
        self.progress.elapsed_s = time.monotonic() - started

    async def _pace(self, tick: Tick, started: float) -> None:
        if self._speed:
            due_s = (tick.start - self._traffic.times[0]) / self._speed
            await asyncio.sleep(max(0.0, due_s - (time.monotonic() - started)))

    async def _predict(self, session: aiohttp.ClientSession, index: int) -> None:
        traffic, started = self._traffic, time.perf_counter()
        headers = {
            "Content-Type": "application/octet-stream",
            "Inference-Header-Content-Length": str(len(self._head)),
            self._target.key_header: traffic.keys[index],
            "x-request-id": traffic.ids[index],
            "x-gaugeway-event-time": rfc3339(traffic.times[index]),
        }
        body = self._head + traffic.rows[index].astype("<f4").tobytes()
        try:
            async with session.post(self._url, data=body, headers=headers) as response:
                answer = await response.read()
        except (aiohttp.ClientError, TimeoutError) as error:
            self.progress.fail(f"{traffic.ids[index]}: {type(error).__name__} {error}")
            return
        if response.status != 200:
            self.progress.fail(f"{traffic.ids[index]}: {response.status} {answer[:200].decode(errors='replace')}")
            return
        version = response.headers["x-gaugeway-version"]
        prediction = _prediction(answer, self._target)
        self.progress.answer(index, traffic.keys[index], version, prediction, time.perf_counter() - started)

    async def _send_labels(
        self, session: aiohttp.ClientSession, due: "asyncio.Queue[tuple[Tick, list[asyncio.Task[None]]] | None]"
    ) -> None:
        while (item := await due.get()) is not None:
            tick, sent = item
            await asyncio.gather(*sent)
            for first in range(0, len(tick.labels), LABELS_PER_POST):
                await self._label(session, tick.labels[first : first + LABELS_PER_POST])

    async def _label(self, session: aiohttp.ClientSession, indices: list[int]) -> None:
        """Offer labels until they are taken: 503 and lost connections are no answer, and a second copy does no harm."""
        traffic = self._traffic
        body = b"".join(_label_line(traffic, index) for index in indices)
        give_up = time.monotonic() + LABEL_PATIENCE_S
        while True:
            taken, what = await self._offer(session, body)
            if taken is not None:
                self.progress.labels.sent += len(indices)
                self.progress.labels.refused += taken
                return
            if not what.startswith("503") or time.monotonic() > give_up:
                self.progress.labels.failed += len(indices)
                self.progress.note(f"labels: {what}")
                return
            await asyncio.sleep(0.5)

    async def _offer(self, session: aiohttp.ClientSession, body: bytes) -> tuple[int | None, str]:
        """How many of the labels were refused, or None and why the gateway did not take them."""
        try:
            headers = {"Content-Type": "application/x-ndjson"}
            async with session.post(self._labels_url, data=body, headers=headers) as response:
                text = await response.text()
        except (aiohttp.ClientError, TimeoutError) as error:
            return None, f"503 {type(error).__name__} {error}"
        if response.status != 200:
            return None, f"{response.status} {text[:200]}"
        refused = msgspec.json.decode(text)["refused"]
        for label in refused:
            self.progress.note(f"label refused: {label['reason']}")
        return len(refused), ""


def _head(target: Target, features: int) -> bytes:
    """The JSON part of every request; its row follows as binary data, since NaN has no JSON form."""
    tensor = {
        "name": target.input,
        "datatype": "FP32",
        "shape": [1, features],
        "parameters": {"binary_data_size": 4 * features},
    }
    return _JSON.encode({"inputs": [tensor], "outputs": [{"name": target.output}]})


def _prediction(answer: bytes, target: Target) -> float:
    return float(msgspec.json.decode(answer)["outputs"][0]["data"][target.column])


def _label_line(traffic: Traffic, index: int) -> bytes:
    label = {
        "id": traffic.ids[index],
        "row": 0,
        "label": float(traffic.labels[index]),
        "time": rfc3339(traffic.label_times[index]),
    }
    return _JSON.encode(label) + b"\n"
