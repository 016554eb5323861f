"""Sixty seconds of overload in simulated time: what is let in is answered in time, and what is shed is the right part.

The model takes 20 ms and runs one request at a time on each of two replicas: the capacity is 100 requests/s.
"""

import random
from collections.abc import Callable, Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.admission import (
    CRITICAL,
    DEFAULT,
    PRIORITIES,
    REASONS,
    SHADOW,
    SHEDDABLE,
    Admission,
    Places,
    priority_of,
)
from serving.errors import BadRequest, Overloaded
from tests.gradient import Gradient2
from tests.simulation import Ask, Clock, Door, Open, Replica, Worker, arrivals, outcomes, quantile

CAPACITY = 100.0
RUN_S = 0.02


def admission(places: int = 4096, max_queue_rows: int = 4096, batch_rows: int = 1) -> Admission:
    door = Admission("m", Places(places), max_queue_rows=max_queue_rows, queue_target_s=0.5, rng=random.Random(1))
    door.resize(2, batch_rows)
    return door


class Site:
    """A worker with two replicas; every ask that was offered."""

    def __init__(
        self, door: Door, run_s: Callable[[int], float] = lambda rows: RUN_S, max_batch_rows: int = 1, replicas: int = 2
    ) -> None:
        self.clock = Clock()
        self.replicas = [Replica(self.clock, run_s) for _ in range(replicas)]
        self.worker = Worker(self.clock, door, self.replicas, max_batch_rows)
        self.asks: list[Ask] = []

    def offer(self, asks: Iterable[Ask]) -> None:
        for ask in asks:
            self.asks.append(ask)
            self.clock.at(ask.at, lambda ask=ask: self.worker.ask(ask))  # type: ignore[misc]

    def between(self, start: float, end: float, priority: int | None = None, client: str | None = None) -> list[Ask]:
        return [
            ask
            for ask in self.asks
            if start <= ask.at < end and priority in (None, ask.priority) and client in (None, ask.client)
        ]

    def poisson(self, rate: float, start: float, end: float, seed: int = 1, **ask: object) -> None:
        self.offer(Ask(at, **ask) for at in arrivals(random.Random(seed), rate, start, end))  # type: ignore[arg-type]


def good(asks: Iterable[Ask]) -> float:
    """Share that was answered within the deadline."""
    counts = outcomes(asks)
    return counts["ok"] / counts.total()


def accepted(asks: Iterable[Ask]) -> list[Ask]:
    """And not displaced."""
    return [ask for ask in asks if ask.outcome in ("ok", "late")]


@pytest.mark.parametrize("times", [2, 5, 10])
def test_goodput_holds_under_overload_and_latency_comes_back(times: int) -> None:
    site = Site(admission())
    site.poisson(0.5 * CAPACITY, 0, 20)
    site.poisson(times * CAPACITY, 20, 80)
    site.poisson(0.5 * CAPACITY, 80, 105, seed=2)
    site.clock.run(110)
    crowd = site.between(20, 80)
    assert outcomes(crowd)["ok"] >= 0.9 * CAPACITY * 60
    assert quantile([ask.latency_s for ask in accepted(crowd)], 0.99) < 0.6  # of a deadline of one second
    assert set(outcomes(crowd)) <= {"ok", *REASONS}
    assert site.worker.longest_queue <= 50 and site.worker.computed_late == 0
    before = quantile([ask.latency_s for ask in site.between(0, 20)], 0.99)
    after = site.between(85, 105)
    assert good(after) == 1.0 and quantile([ask.latency_s for ask in after], 0.99) <= 1.5 * before


def test_control_without_limits_answers_nobody_in_time() -> None:
    site = Site(Open())
    site.poisson(2 * CAPACITY, 0, 60)
    site.clock.run(65)
    assert good(site.between(5, 60)) < 0.05


@pytest.mark.parametrize("share", [0.1, 0.25, 0.45])
def test_critical_requests_succeed_at_twice_the_capacity(share: float) -> None:
    site = Site(admission())
    for priority, part in ((CRITICAL, share), (DEFAULT, 0.9 - share), (SHEDDABLE, 0.1)):
        site.poisson(2 * CAPACITY * part, 0, 60, seed=priority, priority=priority)
    site.clock.run(65)
    assert good(site.between(0, 60, CRITICAL)) >= 0.99
    assert good(site.between(0, 60, DEFAULT)) > good(site.between(0, 60, SHEDDABLE))
    assert outcomes(site.asks)["ok"] >= 0.9 * CAPACITY * 60


@pytest.mark.parametrize("times", [2, 5, 10])
def test_who_is_let_in_is_answered_in_time_whatever_goes_before(times: float) -> None:
    """Critical requests, one in ten, are half of the capacity at five times of it, and all of it at ten."""
    site = Site(admission())
    mix = ((CRITICAL, 0.1), (DEFAULT, 0.8), (SHEDDABLE, 0.1))
    for priority, part in mix:
        site.poisson(0.25 * CAPACITY * part, 0, 10, seed=priority, priority=priority)
        site.poisson(times * CAPACITY * part, 10, 30, seed=priority + 9, priority=priority)
    site.clock.run(35)
    crowd = site.between(10, 30)
    print(
        times,
        [
            (
                PRIORITIES[p],
                outcomes(site.between(10, 30, p)),
            )
            for p, _ in mix
        ],
        [round(a.at, 2) for a in crowd if a.outcome == "late"][:30],
    )
    assert outcomes(crowd)["ok"] >= 0.9 * CAPACITY * 20
    assert outcomes(crowd)["late"] <= 0.01 * len(accepted(crowd))


def test_shadows_are_the_first_to_go_and_the_last_to_come_in() -> None:
    site = Site(admission())
    for priority in (DEFAULT, SHADOW):
        site.poisson(0.5 * CAPACITY, 0, 30, seed=priority, priority=priority)
        site.poisson(1.2 * CAPACITY, 30, 60, seed=priority + 9, priority=priority)
    site.clock.run(65)
    assert good(site.between(0, 30, DEFAULT)) > 0.99
    assert good(site.between(30, 60, SHADOW)) < 0.15


@pytest.mark.parametrize("polite", [0.1, 0.4])
def test_a_greedy_client_is_shed_before_the_others(polite: float) -> None:
    """Ten clients that ask for `polite` of the capacity together, beside one that asks for five times of it."""
    door = admission()
    site = Site(door)
    site.poisson(5 * CAPACITY, 0, 60, client="greedy")
    for n in range(10):
        site.poisson(0.1 * polite * CAPACITY, 0, 60, seed=n + 10, client=f"polite {n}")
    site.clock.run(65)
    others = [ask for ask in site.asks if ask.client != "greedy"]
    assert good(others) >= 0.98
    assert outcomes(site.asks)["ok"] >= 0.9 * CAPACITY * 60  # what they leave is not left unused
    assert outcomes(site.between(0, 60, client="greedy"))["client"] > 0


def test_requests_that_would_be_late_are_refused_rather_than_computed() -> None:
    """At five times the capacity with deadlines of a tenth of a second; the control computes in vain."""
    counts = []
    for door in (admission(), Open()):
        site = Site(door)
        site.poisson(5 * CAPACITY, 0, 20, deadline_s=0.1)
        site.clock.run(25)
        counts.append((outcomes(site.asks)["ok"], site.worker.computed_late))
    assert counts[0][0] >= 0.9 * CAPACITY * 20 and counts[0][1] <= 20
    assert counts[1][0] <= 0.1 * CAPACITY * 20 and counts[1][1] >= 0.5 * CAPACITY * 20


def test_a_deadline_shorter_than_a_run_still_gets_its_chance_when_nobody_is_there() -> None:
    door = admission()
    door.ran(1, 0.02, 0, 1.0)
    door.admit("a", DEFAULT, 1, 0.001, 0, 1.0)
    with pytest.raises(Overloaded, match=r"deadline is 0\.001 s") as refused:
        door.admit("b", DEFAULT, 1, 0.001, 0, 1.0)
    assert refused.value.reason == "deadline"


def _storm(door: Door) -> Site:
    """70 % of the capacity, five times as much between 10 and 15 s; who fails asks three times more, at once."""
    site = Site(door)

    def again(ask: Ask) -> None:
        if ask.outcome != "ok" and ask.tries < 4:
            site.offer([Ask(site.clock.now, tries=ask.tries + 1, then=again)])

    rng = random.Random(3)
    for rate, start, end in ((0.7, 0, 10), (5, 10, 15), (0.7, 15, 60)):
        site.offer(Ask(at, then=again) for at in arrivals(rng, rate * CAPACITY, start, end))
    site.clock.run(70)
    return site


def test_a_retry_storm_ends_and_without_limits_it_does_not() -> None:
    assert good(_storm(admission()).between(25, 60)) == 1.0
    assert good(_storm(Open()).between(25, 60)) < 0.1


FAST, MEDIUM, IMAGES = (lambda rows: 1e-4 + 2e-6 * rows), (lambda rows: 5e-3 + 2e-4 * rows), (lambda rows: 5e-3 * rows)


@pytest.mark.parametrize(
    ("run_s", "max_batch_rows", "connections"),
    [
        *((FAST, 256, n) for n in (1, 2, 8, 32, 128)),
        *((MEDIUM, 256, n) for n in (1, 8, 32, 128, 1000)),
        *((IMAGES, 32, n) for n in (1, 8, 32, 128)),  # 400 a second
        *((IMAGES, 1, n) for n in (1, 8, 32, 128)),
    ],
)
def test_batches_that_take_longer_are_no_overload(
    connections: int, run_s: Callable[[int], float], max_batch_rows: int
) -> None:
    """Clients that ask again when they are answered: as fast as without limits, and none is refused."""
    rates = []
    for door in (admission(batch_rows=max_batch_rows), Open()):
        site = Site(door, run_s, max_batch_rows)

        def again(ask: Ask, site: Site = site) -> None:
            assert ask.outcome == "ok", ask
            site.offer([Ask(site.clock.now + 2e-5, deadline_s=30.0, then=again)])

        site.offer(Ask(n * 1e-5, deadline_s=30.0, then=again) for n in range(connections))
        site.clock.run(0.1 if run_s is FAST else 2.0)
        rates.append(len(site.worker.ended_asks))
    assert rates[0] >= 0.99 * rates[1] > 0


def test_control_that_watches_latency_takes_batches_for_overload() -> None:
    """And overload for a slow model: its idea of a time without load grows with the queue."""
    site = Site(Gradient2(), MEDIUM, 256)

    def again(ask: Ask) -> None:
        site.offer([Ask(site.clock.now + 2e-5 + 0.005 * (ask.outcome != "ok"), deadline_s=30.0, then=again)])

    site.offer(Ask(n * 1e-5, deadline_s=30.0, then=again) for n in range(128))
    site.clock.run(5.0)
    assert outcomes(site.worker.ended_asks)["limit"] > 500
    crowded = Site(Gradient2())
    crowded.poisson(10 * CAPACITY, 0, 20)
    crowded.clock.run(25)
    assert outcomes(crowded.asks)["late"] > 100


@pytest.mark.parametrize("count", [2, 4])
def test_workers_share_the_replicas(count: int) -> None:
    """Each measures its own part; what was let in before it knew is turned away from the queue."""
    clock = Clock()
    replicas = [Replica(clock, lambda rows: RUN_S) for _ in range(2)]
    workers = [Worker(clock, admission(), replicas) for _ in range(count)]
    asks = [Ask(at) for at in arrivals(random.Random(1), 10 * CAPACITY, 0, 60)]
    for n, ask in enumerate(asks):
        clock.at(ask.at, lambda ask=ask, n=n: workers[n % count].ask(ask))  # type: ignore[misc]
    clock.run(65)
    assert outcomes(asks)["ok"] >= 0.9 * CAPACITY * 60
    assert quantile([ask.latency_s for ask in accepted(asks)], 0.99) < 0.9


def test_half_of_the_replicas_go_and_come_back() -> None:
    """The limit follows at once, and nothing is late for longer than a moment."""
    door = admission()
    site = Site(door)
    site.poisson(3 * CAPACITY, 0, 30)

    def change(run_s: float, replicas: int) -> None:
        site.replicas[1].run_s = lambda rows: run_s
        door.resize(replicas, 1)

    site.clock.at(10, lambda: change(0.2, 1))
    site.clock.at(20, lambda: change(RUN_S, 2))
    site.clock.run(35)
    assert outcomes(site.between(22, 30))["ok"] >= 0.9 * CAPACITY * 8
    assert outcomes(site.between(0, 30))["late"] <= 30


def test_a_pause_of_the_machine_is_not_a_slower_model() -> None:
    """One run of a third of a second among those of 20 ms, at 70 % of the capacity."""
    pauses = iter([0.3 if n % 200 == 199 else RUN_S for n in range(10_000)])
    site = Site(admission(), lambda rows: next(pauses))
    site.poisson(0.7 * CAPACITY, 0, 60)
    site.clock.run(65)
    assert good(site.asks) == 1.0


def test_a_slow_first_run_is_no_slow_model() -> None:
    """128 clients at once, right after the start, of a model that cannot batch."""
    runs = iter([0.1, 0.1] + [0.0005] * 10_000)
    site = Site(admission(), lambda rows: next(runs))
    site.offer(Ask(0.001 * (n % 2), deadline_s=30.0) for n in range(2))

    def again(ask: Ask) -> None:
        assert ask.outcome == "ok", ask
        site.offer([Ask(site.clock.now + 2e-5, deadline_s=30.0, then=again)])

    site.offer(Ask(0.11 + n * 1e-4, deadline_s=30.0, then=again) for n in range(128))
    site.clock.run(1.0)
    assert len(site.worker.ended_asks) > 3000


def test_a_limit_learned_in_a_crowd_is_forgotten_in_a_quiet_hour() -> None:
    door = admission(batch_rows=256)
    site = Site(door, lambda rows: 0.01 * rows, 256)
    site.poisson(10 * CAPACITY, 0, 10)
    site.clock.run(20)
    crowded = door.limit_rows
    site.poisson(5, 20, 30)
    site.clock.run(35)
    assert door.limit_rows > 10 * crowded


@given(
    st.lists(
        st.tuples(
            st.sampled_from("abc"), st.integers(0, len(PRIORITIES) - 1), st.integers(1, 300), st.floats(0.001, 30)
        ),
        max_size=200,
    ),
    st.randoms(use_true_random=False),
)
def test_what_is_let_in_is_let_out_and_bounds_hold(
    wanted: list[tuple[str, int, int, float]], rng: random.Random
) -> None:
    places = Places(20)
    door = Admission("m", places, max_queue_rows=1000, queue_target_s=0.05, rng=rng)
    door.resize(2, 4)
    inside: list[tuple[str, int, int]] = []
    now = 0.0
    for client, priority, rows, deadline_s in wanted:
        queued = max(0, door.rows - 64)
        try:
            door.admit(client, priority, rows, deadline_s, queued, now)
            inside.append((client, priority, rows))
            assert not queued or queued + rows <= 1000
        except Overloaded as error:
            assert error.reason in REASONS and 1.0 <= error.retry_after_s <= 30.0
            assert door.rows or error.reason == "inflight"
        now += rng.random() * 0.05
        while inside and rng.random() < 0.4:
            leaving = inside.pop(rng.randrange(len(inside)))
            door.release(*leaving)
            door.ran(leaving[2], 0.01 * rng.random(), queued, now)
        assert door.rows == sum(rows for _, _, rows in inside) and places.taken == len(inside) <= 20
        assert door.clients == len({client for client, _, _ in inside})
        assert door.limit_rows > 0
    for leaving in inside:
        door.release(*leaving)
    assert (door.rows, door.clients, places.taken) == (0, 0, 0)


def test_every_bound_has_its_reason() -> None:
    def reason(door: Admission, priority: int = DEFAULT, client: str = "b", **more: float) -> str:
        with pytest.raises(Overloaded) as refused:
            door.admit(client, priority, 1, more.get("deadline_s", 30.0), int(more.get("queued_rows", 0)), 1.0)
        return refused.value.reason

    def filled(rows: int, **bounds: int) -> Admission:
        door = admission(**bounds)
        door.ran(1, RUN_S, 0, 1.0)  # 112 rows in flight are 0.56 s twice, the 3 runs and half a second of waiting
        door.admit("a", DEFAULT, rows, 30.0, 0, 1.0)
        return door

    assert reason(filled(1, places=1)) == "inflight"
    assert reason(filled(10, max_queue_rows=5), queued_rows=6) == "queue"
    assert reason(filled(60)) == "limit"
    assert reason(filled(45), client="a") == "client"
    assert reason(filled(40), deadline_s=0.2) == "deadline"
    filled(45).admit("b", DEFAULT, 1, 30.0, 0, 1.0)
    filled(100).admit("b", CRITICAL, 1, 30.0, 0, 1.0)
    assert reason(filled(113), CRITICAL) == "limit"
    with pytest.raises(Overloaded, match="60 rows are in flight, default requests may fill 56"):
        filled(60).knock("b", DEFAULT)
    filled(60).knock("b", CRITICAL)
    with pytest.raises(Overloaded, match="45 of 45 rows in flight are this client's"):
        filled(45).knock("a", DEFAULT)


def test_asking_again_is_put_off_for_longer_in_a_larger_crowd() -> None:
    def waits(times: float) -> list[float]:
        door = admission()
        site = Site(door)
        site.poisson(times * CAPACITY, 0, 5)
        site.clock.run(5)
        found = []
        for _ in range(200):
            with pytest.raises(Overloaded) as refused:
                door.knock("a", SHADOW)
            found.append(refused.value.retry_after_s)
        return found

    twice, tenfold = waits(2), waits(10)
    assert min(twice) >= 1.0 and max(tenfold) <= 30.0
    assert quantile(tenfold, 0.5) > 2 * quantile(twice, 0.5)
    assert quantile(tenfold, 0.9) > 2 * quantile(tenfold, 0.1)  # spread, so that a crowd does not come back as one


def test_a_priority_is_one_that_a_client_may_name() -> None:
    assert [priority_of(name) for name in (b"critical", b"default", b"sheddable", None)] == [0, 1, 2, 1]
    for name in (b"shadow", b"", b"CRITICAL", b"\xff"):
        with pytest.raises(BadRequest, match="must be critical, default or sheddable"):
            priority_of(name)
