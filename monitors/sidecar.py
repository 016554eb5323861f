"""The monitors' process: ``python -m monitors.sidecar CONFIG.json --node NAME``.

One thread counts: it reads the rings, joins labels and commits. A second one brings what was sealed to the cluster's
judge, or is the judge; a third one speaks HTTP; a fourth one captures. An error that leaves the counts in doubt (the
disk, SQLite) ends the process, whose successor goes on from the last commit.
"""

import argparse
import fcntl
import gc
import logging
import math
import os
import queue
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import msgspec

from monitors.archive import Archive
from monitors.capture.capturing import Capturing
from monitors.capture.figures import Figures
from monitors.court import Court
from monitors.exchange import Exchange
from monitors.inlet import Inlet
from monitors.labels import Label
from monitors.listener import Listener
from monitors.peers import post
from monitors.post import Post
from monitors.questions import (
    MAX_QUESTIONS,
    Answer,
    Asking,
    Holding,
    Labelling,
    Leaving,
    Question,
    Questions,
    Refused,
    Straying,
)  # fmt: skip
from monitors.station import Station
from serving.berth import end_with_node
from serving.config import Capture, Config, restore
from serving.database import Database
from serving.errors import Conflict, Unavailable
from serving.manifest import Manifest
from serving.metrics import collect
from serving.repository import Repository

STUCK_S = 10.0  # without a successful look at the rings the monitors are stale
SILENT_S = 60.0  # without a judge that stores anything the verdicts are stale
LAST_READ_S = 5.0  # for what is left in the rings at the end
LOCK_S = 5.0  # for a predecessor to end

log = logging.getLogger("gaugeway.monitors")


class _Served(msgspec.Struct):
    manifest: Manifest
    capture: Capture = msgspec.field(default_factory=Capture)


class _Model(msgspec.Struct):
    versions: dict[str, _Served] = {}


class _Table(msgspec.Struct):
    """Of the routing table, what the monitors need: which versions there are."""

    models: dict[str, _Model] = {}


class ServedVersions:
    """Follows the node's routing table."""

    def __init__(self, path: Path) -> None:
        self._path, self._seen = path, -1
        self.captures: dict[str, Capture] | None = None  # by model; None before there is a table

    def news(self) -> list[Manifest]:
        """All served versions when the table changed since the last look, else none."""
        try:
            changed = self._path.stat().st_mtime_ns
            if changed == self._seen:
                return []
            table = msgspec.json.decode(self._path.read_bytes(), type=_Table)
        except FileNotFoundError:
            return []
        except msgspec.DecodeError as error:
            log.warning("%s is not a routing table: %s", self._path, error)
            return []
        self._seen = changed
        self.captures = {name: one.capture for name, model in table.models.items() for one in model.versions.values()}
        return [served.manifest for model in table.models.values() for served in model.versions.values()]


class Sidecar:
    """The counting thread: `run` until `stop`."""

    def __init__(
        self, station: Station, served: ServedVersions, poll_s: float, captured: Callable[[], Figures] = Figures
    ) -> None:
        self._station, self._served, self._captured, self._poll_s = station, served, captured, poll_s
        self._expected: list[Manifest] = []
        self.questions: Questions = queue.Queue(MAX_QUESTIONS)
        self._stopping = False
        self._looked_at = time.monotonic()
        self._complaint = ""

    @property
    def alive(self) -> bool:
        """Whether the rings were read a moment ago."""
        return time.monotonic() - self._looked_at < STUCK_S

    def stop(self, *_: object) -> None:
        self._stopping = True

    def run(self, post: Post) -> None:
        """Read, answer, commit; at the end once more, until the rings are empty."""
        more = False
        while not self._stopping:
            if not post.running:
                raise RuntimeError("the thread that brings away what is sealed has ended")
            questions = self._wait(0.0 if more else self._poll_s)
            more = self._poll()
            self._answer(questions, post)
            self._commit(post)
        until = time.monotonic() + LAST_READ_S
        while self._poll() and time.monotonic() < until:
            pass
        self._answer(self._waiting(), post)
        self._station.close()

    def _commit(self, post: Post) -> None:
        before = self._station.delivery
        self._station.commit()
        if self._station.delivery is not before and self._station.delivery.parcels:
            post.wake()

    def _wait(self, timeout_s: float) -> list[Question]:
        """What was asked, at the latest after `timeout_s`."""
        try:
            first = self.questions.get(timeout=timeout_s) if timeout_s else self.questions.get_nowait()
        except queue.Empty:
            return []
        return [first, *self._waiting()]

    def _waiting(self) -> list[Question]:
        found: list[Question] = []
        while not self.questions.empty():
            found.append(self.questions.get_nowait())
        return found

    def _poll(self) -> bool:
        self._expected = self._served.news() or self._expected
        try:
            if self._expected:
                self._station.expect(self._expected)
                self._expected = []
            more = self._station.poll(time.time())
        except Unavailable as error:
            if self._complaint != str(error):
                self._complaint = str(error)
                log.warning("%s; the rings are read as soon as it can", error)
            return False
        self._looked_at, self._complaint = time.monotonic(), ""
        return more

    def _answer(self, questions: list[Question], post: Post) -> None:
        """What changes something first, then one commit for all of it, then the answers."""
        taken = [question for question in questions if question.answer.set_running_or_notify_cancel()]
        answers = [(question, self._label(question)) for question in taken if isinstance(question, Labelling)]
        leaving = [question for question in taken if isinstance(question, Leaving)]
        for left in leaving:
            self._station.leave(left.labels, left.unusable)
        if answers or leaving:
            self._station.commit(at_once=True)
        for question, answer in answers:
            question.answer.set_result(answer)
        for left in leaving:
            left.answer.set_result(None)
        self._tell(taken, post)

    def _tell(self, taken: list[Question], post: Post) -> None:
        """Answers that change nothing."""
        store = self._station.ledger.store
        for question in taken:
            if isinstance(question, Holding):
                question.answer.set_result(store.held(question.labels))
            elif isinstance(question, Straying):
                question.answer.set_result(store.strays(question.after, question.n))
        asking = [question.answer for question in taken if isinstance(question, Asking)]
        if asking:
            stale = not self.alive or post.silent_s > SILENT_S
            found = self._station.report(time.time(), post.judged, stale=stale)
            found = replace(found, capture=self._captured())
            for asked in asking:
                asked.set_result(found)

    def _label(self, question: Labelling) -> Answer:
        now = time.time()
        refused, labels = list(question.refused), list[Label]()
        default_s = self._station.clock(now)
        reasons = self._station.ledger.refusals(label for _, label in question.labels)
        for (index, label), reason in zip(question.labels, reasons, strict=True):
            if reason:
                refused.append(Refused(index, reason))
            else:
                labels.append(label._replace(time=default_s) if math.isnan(label.time) else label)
        arrival = self._station.label(labels, now)
        return Answer(
            arrival.joined, arrival.parked, arrival.unknown, sorted(refused, key=lambda r: r.index),
            arrival.doubled, arrival.conflicting, arrival.late,
        )  # fmt: skip


def run(config: Config, node: str, address: str) -> None:
    """Monitor this node until SIGTERM or SIGINT; then read what is left, commit and return."""
    folder, database = config.run_dir, Database(config.database_url, later=True)  # known versions are counted without
    repository = Repository.of(config, database)
    with _alone(folder / "monitors.lock"):
        station = Station(
            config.monitors, node, folder / "rings", folder / "monitors.db", repository.manifest, repository.read
        )
        served = ServedVersions(folder / "table.json")
        capturing = Capturing(folder / "rings", config.captures, lambda: served.captures)
        sidecar = Sidecar(station, served, config.monitors.poll_s, lambda: capturing.figures)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, sidecar.stop)
        with _connected(config, address, sidecar, station, repository, database) as post:
            capturing.start()
            try:
                sidecar.run(post)
            finally:
                capturing.stop()


@contextmanager
def _connected(
    config: Config, address: str, sidecar: Sidecar, station: Station, repository: Repository, database: Database
) -> Iterator[Post]:
    """With the listener and the post of a sidecar, while they run."""
    secret, folder = config.channel.secret.encode(), config.run_dir

    def send(to: str, path: str, body: bytes) -> bytes:
        return post(to, path, body, secret, time.time())

    def convene() -> Court:
        return Court(config.monitors, station.meaning, repository.manifest, repository.read, repository.store)

    archive = Archive(database, station.node)
    mail = Post(
        archive, convene, send, outgoing=lambda: station.delivery, receive=station.receive,
        alive=lambda: sidecar.alive, gone_s=config.monitors.gone_s,
    )  # fmt: skip
    listener = Listener(
        sidecar.questions,
        Exchange(station.node, sidecar.questions, lambda: mail.peers, send),
        Inlet(secret, sidecar.questions, mail.take),
        alive=lambda: sidecar.alive, workers=lambda: collect(_pages(folder)), judge=lambda: mail.judge, send=send,
    )  # fmt: skip
    host = address or config.channel.host or config.metrics.host
    listener.start(config.metrics.host, config.metrics.node_port, config.socket_dir / "monitors.sock", host)
    archive.address = f"{f'[{host}]' if ':' in host else host}:{listener.peers_port}"
    mail.start()
    (folder / "monitors.port").write_text(str(listener.port))
    log.info("monitors of %s listen on %s:%d", station.node, config.metrics.host, listener.port)
    try:
        yield mail
    finally:
        mail.stop()
        listener.close()


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Two processes on one journal would count twice: the second waits, then raises Conflict."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        until = time.monotonic() + LOCK_S
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > until:
                    raise Conflict(f"another process holds {path}") from None
                time.sleep(0.05)
        yield


def _pages(folder: Path) -> list[Path]:
    return sorted((folder / "metrics").glob("*.page"))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m monitors.sidecar", description="Monitor the rings of one node.")
    parser.add_argument("config", type=Path, help="the configuration as JSON, as `serving.config.dump` writes it")
    parser.add_argument("--node", default="local", help="name of this node among those of the cluster")
    parser.add_argument("--address", default="", help="where the sidecars of other nodes reach this one")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    os.nice(5)  # serving comes first: a backlog waits in the rings
    gc.freeze()
    gc.set_threshold(100_000, 50, 100)  # records come in thousands of small objects and make no cycles
    config = restore(arguments.config.read_bytes())
    end_with_node(config)
    run(config, arguments.node, arguments.address)


if __name__ == "__main__":
    main()
