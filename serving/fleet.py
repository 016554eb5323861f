"""The gateway workers of one node, each in a place at the door, replaced one after the other under load.

A place keeps a copy of its worker's listening socket. The next worker inherits it, finds the table and links to
replicas, and accepts beside the one that is there; only then is that one told to drain. So every connection is
accepted by somebody, also one that waits while a killed worker is started again.

Workers are numbered by slots, of which each has a ring and a page of counters with one writer at a time. There is
one slot more than places: a replacement begins in the one that is free.
"""

import json
import logging
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from serving import handover
from serving.children import Child, left
from serving.config import Config
from serving.metrics import Page

log = logging.getLogger("gaugeway.node")

START_S = 30.0  # a worker that does not answer by then is given up, and with it the replacement
STOP_S = 35.0


@dataclass
class Worker:
    """A process in a slot. `revision` is that of the configuration it was started with."""

    slot: int
    revision: int
    child: Child
    since: float = field(default_factory=time.monotonic)  # it was started, or told to leave

    @property
    def for_s(self) -> float:
        return time.monotonic() - self.since


@dataclass
class Place:
    """A socket at the door, who accepts from it, and the one that is about to."""

    worker: Worker
    door: socket.socket | None = None
    heir: Worker | None = None


class Fleet:
    """Starts, adopts, watches, replaces and stops the workers; never waits but in `stop`."""

    def __init__(self, config: Config, path: Path, revision: int = 0) -> None:
        self._config, self._path, self._wanted = config, path, revision
        self._places: list[Place] = []
        self._leaving: list[Worker] = []
        self.problem = ""

    def start(self) -> None:
        """Adopt those that a predecessor left, and fill the places that are free."""
        found = [self._adopt(slot) for slot in self._slots_left()]
        surplus = len(found) - self._config.gateway.workers
        for worker in found[: max(0, surplus)]:  # it was being replaced
            self._dismiss(worker)
        self._places = [Place(worker) for worker in found[max(0, surplus) :]]
        for _ in range(-surplus):
            self._places.append(Place(self._worker(self._wanted)))
            self._places[-1].worker.child.start()

    def watch(self) -> None:
        """Start again what died, and take the next step of a replacement."""
        for place in self._places:
            self._look_after(place)
            place.worker.child.watch(place.door)
        for worker in list(self._leaving):
            self._see_off(worker)
        if not self._leaving:
            self._replace()

    def roll(self, revision: int) -> None:
        """Replace, one after the other, every worker that was started with another revision."""
        self._wanted, self.problem = revision, ""

    @property
    def rolling(self) -> bool:
        replacing = any(place.heir for place in self._places) or bool(self._leaving)
        return replacing or (not self.problem and any(map(self._outdated, self._places)))

    @property
    def renewed(self) -> bool:
        """Whether any worker has the wanted revision."""
        return not all(map(self._outdated, self._places))

    def stop(self) -> None:
        """Accept nothing new, drain all of them."""
        workers = [*self._leaving]
        for place in self._places:
            workers += [place.worker, *filter(None, [place.heir])]
            self._close(place)
        for worker in workers:
            worker.child.terminate()
        for worker in workers:
            worker.child.wait(STOP_S)

    def status(self) -> list[dict[str, Any]]:
        return [
            {
                "name": worker.child.name,
                "pid": worker.child.pid,
                "state": state,
                "restarts": worker.child.restarts,
                "revision": worker.revision,
            }
            for worker, state in self._workers()
        ]

    def reports(self) -> list[dict[str, Any]]:
        """What the workers say of themselves."""
        return list(filter(None, (self._report(worker) for worker, _ in self._workers())))

    def _workers(self) -> Iterator[tuple[Worker, str]]:
        """Every worker, and what it does."""
        for place in list(self._places):
            yield place.worker, "running" if place.worker.child.running else "down"
            if place.heir:
                yield place.heir, "starting"
        for worker in list(self._leaving):
            yield worker, "draining"

    def _replace(self) -> None:
        """One step: begin with the next place, or let the heir that answers have its own."""
        place = next((place for place in self._places if place.heir), None)
        if place is not None and place.heir is not None:
            if self._answers(place.heir):
                self._dismiss(place.worker)
                place.worker, place.heir = place.heir, None
            elif place.heir.for_s > START_S or not place.heir.child.running:
                self._give_up(place, place.heir)
            return
        outdated = next(filter(self._outdated, self._places), None)
        if outdated is not None and outdated.door is not None and not self.problem:
            outdated.heir = self._worker(self._wanted)
            outdated.heir.child.attempt(outdated.door)

    def _outdated(self, place: Place) -> bool:
        return place.worker.revision != self._wanted

    def _answers(self, worker: Worker) -> bool:
        report = self._report(worker)
        return bool(report.get("listening")) and report.get("pid") == worker.child.pid

    def _give_up(self, place: Place, heir: Worker) -> None:
        """Those that are there stay: they served well."""
        self.problem = f"{heir.child.name} did not start within {START_S:g} s: {heir.child.log_path} says why"
        log.error("the replacement of workers ends: %s", self.problem)
        self._dismiss(heir)
        place.heir = None

    def _dismiss(self, worker: Worker) -> None:
        worker.child.terminate()
        worker.since = time.monotonic()
        self._leaving.append(worker)

    def _see_off(self, worker: Worker) -> None:
        if worker.child.running and worker.for_s < STOP_S:
            return
        worker.child.wait(0.0)
        self._leaving.remove(worker)
        self._report_path(worker).unlink(missing_ok=True)
        Page(self._page_path(worker)).close()  # its gauges end with it; what it counted stays

    def _look_after(self, place: Place) -> None:
        """Of the door: have a copy of it, but not while the worker fails again and again: nobody should wait there."""
        child = place.worker.child
        if place.door is None and child.running:
            place.door = handover.take(self._config.socket_dir / f"{child.name}.door")
        elif child.failing and not place.heir:
            self._close(place)

    def _close(self, place: Place) -> None:
        if place.door is not None:
            place.door.close()
            place.door = None

    def _worker(self, revision: int) -> Worker:
        slot = next(self._free())
        return Worker(slot, revision, self._child(slot, revision))

    def _adopt(self, slot: int) -> Worker:
        worker = Worker(slot, self._wanted, self._child(slot, self._wanted))
        worker.child.start()
        worker.revision = int(self._report(worker).get("revision", self._wanted))
        return worker

    def _child(self, slot: int, revision: int) -> Child:
        name, run = f"worker-{slot}", self._config.run_dir
        arguments = [str(self._path), "--slot", str(slot), "--revision", str(revision)]
        return Child(name, "serving.worker", arguments, run / "pids", self._config.logs / f"{name}.log")

    def _free(self) -> Iterator[int]:
        taken = {worker.slot for worker, _ in self._workers()}
        return (slot for slot in range(len(taken) + 1) if slot not in taken)

    def _slots_left(self) -> list[int]:
        """Of the workers that a predecessor left running, the oldest first."""
        return [
            int(name.partition("-")[2]) for name in left(self._config.run_dir / "pids") if name.startswith("worker-")
        ]

    def _report(self, worker: Worker) -> dict[str, Any]:
        try:
            found: dict[str, Any] = json.loads(self._report_path(worker).read_text())
        except FileNotFoundError:
            return {}
        return found

    def _report_path(self, worker: Worker) -> Path:
        return self._config.run_dir / "workers" / f"{worker.child.name}.json"

    def _page_path(self, worker: Worker) -> Path:
        return self._config.run_dir / "metrics" / f"{worker.child.name}.page"
