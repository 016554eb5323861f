"""Labels find their prediction on whatever node it was made. Three nodes, their own threads, no sockets."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from monitors.exchange import HELD, JOIN, Exchange
from monitors.inlet import Inlet
from monitors.labels import Label
from monitors.questions import Answer, Labelling
from monitors.sidecar import ServedVersions, Sidecar
from monitors.station import Station
from serving import record
from serving.config import Monitors
from serving.errors import Unavailable
from serving.ring import RingWriter
from tests.monitors.traffic import FEATURES, START, Registry, manifest
from tests.monitors.traffic import record as one_record

SETTINGS = Monitors(event_time="request", slot_s=3600, block_s=6 * 3600, label_horizon_s=86400)
NOW = START + 10**8


class Node:
    """One node without its processes: what is asked is answered by a thread that counts, as in a sidecar."""

    def __init__(self, name: str, folder: Path, loop: asyncio.AbstractEventLoop, send: Callable[..., bytes]) -> None:
        registry = Registry(manifest("1"))
        self.ring = RingWriter(folder / "rings" / "worker-0.ring", 2**20)
        self.station = Station(SETTINGS, name, folder / "rings", None, registry.manifest, registry.read)
        self._sidecar, self._lock = Sidecar(self.station, ServedVersions(folder / "table.json"), 0.1), threading.Lock()
        self.peers: dict[str, str] = {}
        self.exchange = Exchange(name, self._sidecar.questions, lambda: self.peers, send)
        inlet = Inlet(b"secret", self._sidecar.questions, lambda delivery: pytest.fail("no slots are sent here"))
        self._answers = {HELD: inlet.held, JOIN: inlet.join}
        self._loop, self.away = loop, False
        threading.Thread(target=self._answer, daemon=True).start()

    def predict(self, id: str, at: float = START) -> None:
        made = one_record([id], np.zeros((1, FEATURES), np.float32), [at])
        with self._lock:
            self.ring.append(record.encode(made), made.rows)
            self.station.poll(NOW)

    def called(self, path: str, body: bytes) -> bytes:
        if self.away:
            raise Unavailable("it is away")
        return asyncio.run_coroutine_threadsafe(self._answers[path](body), self._loop).result(10)

    def joined(self) -> int:
        with self._lock:
            return sum(book.joined for book in self.station.ledger.books.values())

    def parked(self) -> int:
        with self._lock:
            return self.station.ledger.store.parked.total()

    def _answer(self) -> None:
        post: Any = None  # only a report needs it
        while True:
            question = self._sidecar.questions.get()
            with self._lock:
                self._sidecar._answer([question], post)


class Trio:
    def __init__(self, folder: Path, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.nodes = {name: Node(name, folder / name, loop, self._send) for name in "abc"}
        for name, node in self.nodes.items():
            node.peers = {other: other for other in self.nodes if other != name}

    def label(self, at: str, *labels: Label) -> Answer:
        asked = self.nodes[at].exchange.label(Labelling(list(enumerate(labels))))
        return asyncio.run_coroutine_threadsafe(asked, self._loop).result(10)

    def wander(self, at: str) -> None:
        asyncio.run_coroutine_threadsafe(self.nodes[at].exchange.page(), self._loop).result(10)

    def counts(self) -> list[tuple[int, int]]:
        return [(node.joined(), node.parked()) for node in self.nodes.values()]

    def _send(self, address: str, path: str, body: bytes) -> bytes:
        return self.nodes[address].called(path, body)


@pytest.fixture
def trio(tmp_path: Path) -> Iterator[Trio]:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    yield Trio(tmp_path, loop)
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()


def label(id: str, value: float = 1.0, time: float = START + 60) -> Label:
    return Label("m", id, 0, value, time)


def test_labels_are_joined_where_their_prediction_is(trio: Trio) -> None:
    for id, node in (("ra", "a"), ("rb", "b"), ("rc", "c")):
        trio.nodes[node].predict(id)
    answer = trio.label("a", label("rc"), label("nobody"), label("ra"), label("rb", 7.0), label("rb"))
    assert (answer.joined, answer.parked, answer.unknown) == (3, 1, 0)
    assert [(refused.index, refused.reason[:31]) for refused in answer.refused] == [
        (3, "label of a classification must ")
    ]
    assert trio.counts() == [(1, 1), (1, 0), (1, 0)]
    assert trio.label("b", label("rc")).joined == 1  # told again, elsewhere
    assert trio.counts() == [(1, 1), (1, 0), (1, 0)]


def test_an_id_that_two_nodes_have_belongs_to_the_latest_prediction(trio: Trio) -> None:
    trio.nodes["a"].predict("twice", START)
    trio.nodes["c"].predict("twice", START + 5)
    assert trio.label("a", label("twice")).joined == 1
    assert trio.counts() == [(0, 0), (0, 0), (1, 0)]


def test_a_label_that_comes_before_its_prediction_waits_and_then_goes_there(trio: Trio) -> None:
    assert trio.label("a", label("early"), label("never")).parked == 2
    trio.wander("a")
    assert trio.counts() == [(0, 2), (0, 0), (0, 0)]
    trio.nodes["b"].predict("early")
    trio.wander("a")
    assert trio.counts() == [(0, 1), (1, 0), (0, 0)]
    assert trio.nodes["a"].station.ledger.marks.unknown == {}


def test_labels_of_a_node_that_is_away_wait_for_it(trio: Trio) -> None:
    trio.nodes["b"].predict("rb")
    trio.nodes["b"].away = True
    assert trio.label("c", label("rb")).parked == 1
    trio.wander("c")
    trio.nodes["b"].away = False
    trio.wander("c")
    assert trio.counts() == [(0, 0), (1, 0), (0, 0)]


def test_the_latest_of_two_truths_holds_whichever_node_they_came_to(trio: Trio) -> None:
    trio.nodes["b"].predict("rb")
    trio.label("a", label("rb", 1.0, START + 90))
    trio.label("c", label("rb", 0.0, START + 60))
    book = next(iter(trio.nodes["b"].station.ledger.books.values()))
    assert (book.joined, book.corrected, trio.nodes["b"].station.ledger.marks.conflicting) == (1, 0, 1)
    assert book.mean_loss == pytest.approx(0.25)
