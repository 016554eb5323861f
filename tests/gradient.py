"""A control for the simulations: the limit from latencies, as Netflix's Gradient2 finds it.

Reference: E. Landau, W. Thurston, T. Bozarth, "Performance under load", Netflix Technology Blog (2018), and the
library `concurrency-limits`, whose defaults these are but for the greatest limit.
"""

from collections import deque
from collections.abc import Iterable

from serving.errors import Overloaded
from tests.simulation import Ask

TOLERANCE, QUEUE, SMOOTHING, LONG_WINDOW, WARMUP = 1.5, 4, 0.2, 600, 10
LEAST, MOST = 20.0, 4096.0


class Gradient2:
    """Shrinks when the latest latency is above its long average by more than TOLERANCE; requests end in order."""

    def __init__(self) -> None:
        self._limit = LEAST
        self._long_s = self._now = 0.0
        self._samples = 0
        self._began: deque[float] = deque()

    def admit(self, client: str, priority: int, rows: int, deadline_s: float, queued_rows: int, now: float) -> None:
        self._now = now
        if len(self._began) >= self._limit:
            raise Overloaded("more than the limit", reason="limit")
        self._began.append(now)

    def release(self, client: str, priority: int, rows: int) -> None:
        in_flight = len(self._began)
        self._sample(max(1e-6, self._now - self._began.popleft()), in_flight)

    def ran(self, rows: int, run_s: float, queued_rows: int, now: float) -> bool:
        self._now = now
        return False

    def hopeless(self, waiting: Iterable[Ask], now: float) -> list[Ask]:
        return []

    def _sample(self, latency_s: float, in_flight: int) -> None:
        self._samples += 1
        weight = 1 / self._samples if self._samples <= WARMUP else 2 / (LONG_WINDOW + 1)
        self._long_s += (latency_s - self._long_s) * weight
        if self._long_s > 2 * latency_s:
            self._long_s *= 0.95
        if in_flight < self._limit / 2:
            return
        gradient = max(0.5, min(1.0, TOLERANCE * self._long_s / latency_s))
        wanted = self._limit * gradient + QUEUE
        self._limit = max(LEAST, min(MOST, self._limit + (wanted - self._limit) * SMOOTHING))
