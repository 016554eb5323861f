"""The client that all scenarios share, as Locust's users: it asks about flights and checks every answer.

A locustfile subclasses `Traveller` and `Load`. Importing this patches the standard library.
"""

import sys
import time
from dataclasses import replace
from random import random
from typing import Any, ClassVar

import gevent
from locust import FastHttpUser, LoadTestShape, events, task
from locust.env import Environment

from loadtests.scenarios.answers import WrongAnswer, check, is_shed
from loadtests.scenarios.feed import Flight, request
from loadtests.scenarios.run import RATE, USERS, Reply, Run, content
from loadtests.scenarios.scenario import Scenario
from loadtests.scenarios.shapes import users
from serving.demo import setup
from serving.errors import GaugewayError

KEYS = 25  # of each traveller, where travellers must stay on one version
RAMP_PER_S = 100.0  # Locust warns above it
hooks: Any = events  # not annotated by Locust


class Traveller(FastHttpUser):
    """Asks about a flight `--rate` times a second, or when the last answer has come, whichever is later."""

    abstract = True
    scenario: ClassVar[Scenario]
    shared: ClassVar[Run]
    network_timeout = connection_timeout = 60.0

    def on_start(self) -> None:
        self.number, self.asked = next(self.shared.numbers), 0
        first_s = random() * self.shared.period_s  # not all at once
        self.due = time.monotonic() + first_s
        gevent.sleep(first_s)

    def wait_time(self) -> float:
        """Until its next request is due. One that is overdue begins at once, is counted, and moves the rest."""
        now = time.monotonic()
        self.due += self.shared.period_s
        if self.due < now:
            self.shared.tally.late += 1
            self.due = now
        return self.due - now

    @task
    def ask(self) -> None:
        flight = self._keyed(self.shared.feed.next(self.shared.part))
        headers, body = request(flight, self.shared.with_time)
        data: Any = body  # bytes, which Locust's annotation forgot
        url = f"/v2/models/{self.shared.model}/infer"
        with self.client.post(url, data=data, headers=headers, name="infer", catch_response=True) as reply:
            self._judge(reply, flight)

    def _keyed(self, flight: Flight) -> Flight:
        self.asked += 1
        if not self.scenario.sticky:
            return flight
        return replace(flight, key=f"traveller-{self.number * KEYS + self.asked % KEYS}")

    def _judge(self, reply: Reply, flight: Flight) -> None:
        tally, status, headers = self.shared.tally, reply.status_code, reply.headers or {}
        if is_shed(status, headers):
            tally.refused[status] += 1
            reply.request_meta["name"] = f"infer, refused with {status}"
            (reply.success if self.scenario.sheds_allowed else reply.raise_for_status)()
            return
        try:
            answer = check(status, headers, content(reply), self.shared.model, flight.request_id)
            tally.stickiness.see(flight.key, answer, self.scenario.sticky)
        except WrongAnswer as error:
            tally.wrong += 1
            reply.failure(getattr(reply, "error", None) or error)
            return
        tally.answered(answer, reply.request_meta["response_time"] / 1e3)
        self.shared.answered(flight)
        reply.success()


class Load(LoadTestShape):
    """The scenario's shape over `--users` and `--run-time`."""

    abstract = True
    use_common_options = True

    def tick(self) -> tuple[int, float] | None:
        shared = Traveller.shared
        if shared.elapsed_s >= shared.seconds:
            return None
        return users(shared.scenario.shape, shared.part, shared.users), RAMP_PER_S


def _options(parser: Any) -> None:
    group = parser.add_argument_group("Gaugeway")
    group.add_argument("--model", default=setup.MODEL, help="name of the model of flights")
    group.add_argument("--rate", type=float, default=RATE, help="requests/s of each user")
    group.add_argument("--event-time", choices=("arrival", "request"), default="arrival", help=(
        "request: send the flights' own times, to a gateway with monitors.event_time = \"request\""
    ))  # fmt: skip
    parser.set_defaults(num_users=USERS, stop_timeout=10)


def _begin(environment: Environment, **_: Any) -> None:
    """Exits with 1 and a sentence when there is nothing to ask."""
    kind: Any = environment.user_classes[0]
    try:
        Traveller.shared = Run(environment, kind.scenario)
        Traveller.shared.expect_flights()
    except GaugewayError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)


def _tell(**_: Any) -> None:
    shared = Traveller.shared
    print("\n".join(shared.tally.lines(shared.elapsed_s)), flush=True)


hooks.init_command_line_parser.add_listener(_options)
hooks.init.add_listener(_begin)
hooks.test_start.add_listener(lambda **_: Traveller.shared.start())
hooks.test_stop.add_listener(lambda **_: Traveller.shared.stop())
hooks.quit.add_listener(_tell)
