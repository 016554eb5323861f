"""What happened in a run, and how it is told. Pure: moments are arguments."""

import heapq
from array import array
from collections import Counter
from itertools import count

import numpy as np

from loadtests.scenarios.answers import Answer, Stickiness

PERCENTILES = (50.0, 90.0, 99.0)
ROWS_ABOVE = 10  # a percentile is told when at least so many answers lie above it


class Due:
    """Lines that are to be sent at a moment of their own, in seconds of any one clock.

    >>> due = Due()
    >>> due.put(2.0, b"b"), due.put(1.0, b"a"), due.put(3.0, b"c")
    (None, None, None)
    >>> due.take(2.5), len(due)
    ([b'a', b'b'], 1)
    """

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, bytes]] = []
        self._order = count()

    def __len__(self) -> int:
        return len(self._heap)

    def put(self, moment: float, line: bytes) -> None:
        heapq.heappush(self._heap, (moment, next(self._order), line))

    def take(self, now: float, most: int = 1000) -> list[bytes]:
        """Those that are due, the oldest first."""
        taken: list[bytes] = []
        while self._heap and self._heap[0][0] <= now and len(taken) < most:
            taken.append(heapq.heappop(self._heap)[2])
        return taken


class Tally:
    """Counts of one run."""

    def __init__(self) -> None:
        self.latencies_s = array("d")  # of right answers
        self.wrong = self.late = 0
        self.refused: Counter[int] = Counter()  # by status, with Retry-After
        self.versions: Counter[str] = Counter()
        self.labels: Counter[str] = Counter()  # by outcome
        self.stickiness = Stickiness()

    def answered(self, answer: Answer, latency_s: float) -> None:
        self.latencies_s.append(latency_s)
        self.versions[answer.version] += 1

    def lines(self, elapsed_s: float) -> list[str]:
        """A summary in words."""
        n = len(self.latencies_s)
        refused = "".join(f", {count:,} refused with {status}" for status, count in sorted(self.refused.items()))
        told = [
            f"{n:,} right answers in {elapsed_s:.1f} s ({n / elapsed_s:,.1f}/s), {self.wrong:,} wrong{refused}",
            f"latency of right answers, from when a user asked: {percentiles(self.latencies_s)}",
            f"{self.late:,} requests began late, because their user still waited for the answer before",
        ]
        if self.versions:
            told.append("answers by version: " + _shares(self.versions))
        if keys := self.stickiness.shares():
            told.append("keys by version, none of which moved: " + _shares(keys))
        if self.labels:
            told.append("labels: " + ", ".join(f"{count:,} {outcome}" for outcome, count in self.labels.items()))
        return told


def percentiles(latencies_s: "array[float]") -> str:
    """Those of PERCENTILES that this many answers can tell, and the largest.

    >>> percentiles(array("d", [0.001] * 150))
    'p50 1.0 ms, p90 1.0 ms, largest 1.0 ms'
    """
    if not latencies_s:
        return "there are none"
    told = [p for p in PERCENTILES if len(latencies_s) * (1 - p / 100) >= ROWS_ABOVE]
    values = np.percentile(latencies_s, [*told, 100])
    names = [*(f"p{p:g}" for p in told), "largest"]
    return ", ".join(f"{name} {value * 1e3:.1f} ms" for name, value in zip(names, values, strict=True))


def _shares(counts: "Counter[str] | dict[str, int]") -> str:
    total = sum(counts.values())
    return ", ".join(f"{name} {count / total:.3f} ({count:,})" for name, count in sorted(counts.items()))
