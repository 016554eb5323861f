"""A model whose replicas are scaled, the load on it, and how many replicas took work when."""

import json
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import uvloop

from loadtests.open_loop.arrivals import Plan, Times, constant
from loadtests.open_loop.generator import Behaviour, Generator
from loadtests.open_loop.outcomes import Outcomes
from loadtests.open_loop.workload import Multiples, inputs
from serving.simulation.load import Moment
from tests.gateway import Gateway

Stage = tuple[float, float]  # seconds, requests a second


@dataclass
class Watch:
    """The replicas of a model that its gateway worker may send to, looked at every twentieth of a second."""

    gateway: Gateway
    model: str
    changes: list[tuple[float, int]] = field(default_factory=list)  # seconds since it began, and how many from then on
    _stopping: threading.Event = field(default_factory=threading.Event)
    _began: float = field(default_factory=time.monotonic)

    @property
    def now_s(self) -> float:
        return time.monotonic() - self._began

    @property
    def replicas(self) -> int:
        return self.changes[-1][1] if self.changes else 0

    @contextmanager
    def running(self) -> Iterator["Watch"]:
        thread = threading.Thread(target=self._look)
        thread.start()
        try:
            yield self
        finally:
            self._stopping.set()
            thread.join(10)

    def at(self, at_s: float) -> int:
        return next((count for since, count in reversed(self.changes) if since <= at_s), 0)

    def turns(self) -> int:
        """How often the number went the other way than the time before."""
        steps = [new - old for (_, old), (_, new) in pairwise(self.changes)]
        return sum(a * b < 0 for a, b in pairwise(steps))

    def _look(self) -> None:
        while not self._stopping.wait(0.05):
            if (count := self._count()) != self.replicas or not self.changes:
                self.changes.append((self.now_s, count))

    def _count(self) -> int:
        (path,) = (self.gateway.data / "run" / "workers").glob("worker-*.json")
        links = json.loads(path.read_text())["links"]
        return sum(link["state"] == "ready" and link["replica"].startswith(f"{self.model}-") for link in links)


def plan(stages: Sequence[Stage]) -> Plan:
    """Evenly spaced requests, stage after stage."""
    parts: list[Times] = []
    start_s = 0.0
    for seconds, rate in stages:
        parts.append(start_s + constant(rate, seconds, 1.0, np.random.default_rng(0)))
        start_s += seconds
    times = np.concatenate(parts)
    zeros = np.zeros(len(times), np.int64)
    return Plan(times, zeros, zeros, ("default",))


def ask(gateway: Gateway, model: str, arrivals: Plan) -> Outcomes:
    """All of them, each at its time however slow the answers are, and each answer verified."""
    behaviour = Behaviour(deadline_s=25.0, drain_s=25.0)
    return uvloop.run(
        Generator(gateway.url, model, arrivals, Multiples(inputs(gateway.url, model), 1.0), behaviour).run()
    )


def recorded(arrivals: Plan, watch: Watch, began_s: float, seconds: float) -> list[Moment]:
    """What came and how many replicas there were, second by second from `began_s` of the watch."""
    counts, _ = np.histogram(arrivals.times_s, bins=np.arange(0.0, seconds + 1.0))
    return [Moment(float(s), float(count), watch.at(began_s + s)) for s, count in enumerate(counts)]
