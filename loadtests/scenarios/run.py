"""What all users of a Locust process share: the flights, the counts, and the labels on their way.

Importing this patches the standard library.
"""

import time
from collections.abc import Iterator
from itertools import count
from secrets import token_hex
from typing import Any

import gevent
import msgspec
from locust.contrib.fasthttp import FastHttpSession
from locust.env import Environment

from loadtests.scenarios.feed import Feed, Flight, label
from loadtests.scenarios.scenario import Scenario
from loadtests.scenarios.tally import Due, Tally
from serving.demo import flights, setup
from serving.errors import GaugewayError

SECONDS, USERS, RATE = 60, 20, 5.0  # of a run; at load 1; requests/s of each
LABEL_EVERY_S, LABEL_PATIENCE_S = 0.25, 20.0

Reply = Any  # Locust's class for answers is not annotated


class Run:
    """One run of a scenario in this process."""

    def __init__(self, environment: Environment, scenario: Scenario) -> None:
        options: Any = environment.parsed_options
        self.scenario, self.model, self.host = scenario, str(options.model), str(environment.host)
        self.seconds, self.users = float(options.run_time or SECONDS), int(options.num_users or USERS)
        self.period_s = 1 / float(options.rate)
        self.with_time = options.event_time == "request"
        every = flights.load(flights.source(), setup.home(None) / "flights.parquet")
        self.feed = Feed(every, scenario, self.seconds, token_hex(3))
        self.tally, self.numbers = Tally(), count()
        self._due = Due()
        self._session: Any = FastHttpSession(self.host, environment.events.request, None)
        self._started = float("inf")
        self._over_after_s: float | None = None

    def start(self) -> None:
        self._started, self._over_after_s = time.monotonic(), None
        self._labeller = gevent.spawn(self._bring_labels)

    def stop(self) -> None:
        """Returns when the labels are delivered."""
        self._over_after_s = self.elapsed_s
        self._labeller.join()

    @property
    def elapsed_s(self) -> float:
        """0 before it starts; the whole once it is over."""
        return max(0.0, time.monotonic() - self._started) if self._over_after_s is None else self._over_after_s

    @property
    def part(self) -> float:
        """Of the run, in [0, 1)."""
        return min(self.elapsed_s / self.seconds, 1 - 1e-9)

    def answered(self, flight: Flight) -> None:
        """Its label follows when it has landed."""
        if self.scenario.labels and flight.labelled:
            self._due.put(time.monotonic() + self.feed.lands_in_s(flight), label(flight, self.with_time))

    def expect_flights(self) -> None:
        """Raises GaugewayError when the model is not there or takes something else."""
        reply: Reply = self._session.get(f"/v2/models/{self.model}")
        if reply.status_code != 200:
            reason = content(reply).decode(errors="replace") or getattr(reply, "error", "no answer")
            raise GaugewayError(f"{self.host} does not serve {self.model!r}: {reason}")
        takes = {one["name"]: one["shape"] for one in msgspec.json.decode(content(reply))["inputs"]}
        if takes != {setup.INPUT: [-1, len(flights.FEATURES)]}:
            raise GaugewayError(f"{self.model!r} is no model of flights, it takes {takes}")

    def _bring_labels(self) -> None:
        """When they are due, until the run is over; then those that are left, due or not."""
        while self._over_after_s is None:
            gevent.sleep(LABEL_EVERY_S)
            self._bring(time.monotonic())
        self._bring(float("inf"))

    def _bring(self, now: float) -> None:
        while lines := self._due.take(now):
            for last in _tries():
                if self._offer(lines, last):
                    break

    def _offer(self, lines: list[bytes], last: bool) -> bool:
        """Whether there is an answer: 503 and lost connections are none, before the `last` try."""
        url, headers = f"/v1/models/{self.model}/labels", {"content-type": "application/x-ndjson"}
        with self._session.post(
            url, data=b"".join(lines), headers=headers, name="labels", catch_response=True
        ) as reply:
            if reply.status_code in (0, 503) and not last:
                reply.request_meta["name"] = "labels, not yet taken"
                reply.success()
                return False
            if reply.status_code != 200:
                self.tally.labels["lost"] += len(lines)
                reply.failure(f"status {reply.status_code}: {content(reply)[:200].decode(errors='replace')}")
                return True
            self._count(reply)
        return True

    def _count(self, reply: Reply) -> None:
        counts = msgspec.json.decode(content(reply))
        refused = counts.pop("refused")
        self.tally.labels.update({outcome: n for outcome, n in counts.items() if n})
        if refused:
            self.tally.labels["refused"] += len(refused)
            reply.failure(f"{len(refused)} labels refused, the first because: {refused[0]['reason']}")
        else:
            reply.success()


def content(reply: Reply) -> bytes:
    """Empty when there was no answer at all."""
    return bytes(reply.content or b"")


def _tries() -> Iterator[bool]:
    """One a second for a while; says whether it is the last."""
    give_up = time.monotonic() + LABEL_PATIENCE_S
    while time.monotonic() < give_up:
        yield False
        gevent.sleep(1.0)
    yield True
