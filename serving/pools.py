"""The pools behind the links of one version: how fast each is, and which link gets the next batch."""

import random
from collections import Counter
from collections.abc import Collection, Sequence

from serving.channel import Link
from serving.speed import Line, Seat, Speed, choose

FAR_S = 2e-4  # there and back to another node, and the bytes that shared memory would have saved


class Pools:
    """`patience_s`: how long a batch may wait for a faster pool while a slower one is idle."""

    def __init__(self, patience_s: float, rng: random.Random) -> None:
        self._patience_s, self._rng = patience_s, rng
        self._speeds: dict[str, Speed] = {}
        self.mixed = False  # there is more than one; else nothing is measured
        self._afar = False  # some are on other nodes

    def changed(self, links: Collection[Link]) -> None:
        """These are the links now."""
        hellos = [link.hello for link in links if link.hello is not None]
        self.mixed = len({hello.pool for hello in hellos}) > 1
        self._afar = any(link.far for link in links)
        before = self._speeds
        self._speeds = {h.pool: before.get(h.pool) or Speed(Line(h.fixed_s, h.row_s)) for h in hellos}

    def took(self, link: Link, rows: int, run_s: float) -> None:
        if (speed := self._speeds.get(_pool(link))) is not None:
            speed.took(rows, run_s)

    def most(self, link: Link) -> int:
        """Rows of a run in its pool."""
        return link.hello.max_batch_rows if link.hello is not None else 0

    def least_loaded(self, links: Sequence[Link], bound: int) -> Link | None:
        """The less loaded of two random ones among those that have less than `bound` batches.

        Where some are on other nodes, one that idles on the own node goes before all.
        """
        free = [link for link in links if link.state == "ready" and link.inflight < bound]
        if self._afar:
            free = [link for link in free if not (link.far or link.inflight or link.load)] or free
        if len(free) < 2:
            return free[0] if free else None
        one, other = self._rng.sample(free, 2)  # in random order, so that equals share the work
        return one if (one.inflight, one.load) <= (other.inflight, other.load) else other

    def fastest(
        self, links: Sequence[Link], bound: int, rows: int, queued_rows: int, waited_s: float, joined: bool
    ) -> Link | None:
        """The link with less than `bound` batches that answers first, or None to wait for a full one.

        `rows` are those of the request whose turn it is, which has waited for `waited_s`; `joined`: the others of the
        `queued_rows` may run with it. Requests that must be alone on their link (`bound` 1) do not wait.
        """
        at = self._rng.randrange(len(links)) if links else 0  # so that equals share the work
        ready = [link for link in (*links[at:], *links[:at]) if link.state == "ready"]
        share = Counter(map(_pool, ready))
        seats = []
        for link in ready:
            run_rows = max(rows, min(queued_rows, self.most(link))) if joined else rows
            seats.append(self._seat(link, bound, run_rows, queued_rows / share[_pool(link)] / max(1, run_rows)))
        chosen = choose(seats, waited_s, self._patience_s if bound > 1 else 0.0)
        return None if chosen is None else ready[chosen]

    def _seat(self, link: Link, bound: int, rows: int, runs: float) -> Seat:
        """`runs` of so many rows are its part of what waits."""
        speed, ours = self._speeds[_pool(link)], link.rows
        others = link.load - sum(ours)  # `load` counts ours too
        ahead_s = sum(map(speed.run_s, ours)) + (speed.run_s(others) if others > 0 else 0.0)
        free = link.inflight < bound
        way_s = FAR_S if link.far else 0.0
        return Seat(free, way_s + ahead_s + speed.run_s(rows) * (1.0 if free else max(1.0, runs)))


def _pool(link: Link) -> str:
    return link.hello.pool if link.hello is not None else ""
