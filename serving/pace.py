"""How fast a version answers, and so how much of it may be in flight: Little's law on a measured rate.

How fast the replicas answer is measured only while something waits at the end of every batch, so that a quiet hour is
not taken for a slow model; what they could do at best follows from the shortest run, so that the bound is right before
anything ever waited. Latency is not looked at: with adaptive batches it grows with the load long before there is too
much of it, and a limit that compares it with a time without load sheds requests that would have been answered
(`tests/gradient.py` is such a one).

References: J. Little, "A proof for the queuing formula L = λW", Operations Research 9 (1961). N. Cardwell et al.,
"BBR: congestion-based congestion control", ACM Queue 14 (2016): the greatest of recent rates. The limiter of Apache
bRPC multiplies a measured peak rate in the same way. Not taken: Netflix's Gradient2, Envoy's adaptive concurrency.
"""

import math
from collections import deque

DEPTH = 3  # runs a request lives through while all is well: two batches on a link, and the one that it joins
WINDOW_S, WINDOW_BATCHES = 0.1, 4  # at least, of each replica
RATES = 5  # windows whose best rate counts: a pause of the machine is no slower model
GROWTH = 1.5  # of the limit, per window in which somebody found a replica free


class Pace:
    """How fast a version answers: `row_s` seconds for each row in flight, `run_s` for a batch."""

    def __init__(self, queue_target_s: float, share: float) -> None:
        self._queue_target_s, self._share = queue_target_s, share
        self._replicas = self._batch_rows = 1
        self.limit_rows = math.inf
        self.row_s = self.run_s = 0.0
        self._least_s = self._least_before_s = math.inf  # run, of this window and of the one before
        self._measured = False  # for a whole window
        self._rates: deque[float] = deque(maxlen=RATES)
        self._begin(-math.inf)

    def resize(self, replicas: int, batch_rows: int) -> None:
        self._replicas, self._batch_rows = max(1, replicas), batch_rows
        self._bound(self.limit_rows)

    def ran(self, rows: int, run_s: float, queued_rows: int, now: float) -> bool:
        """A batch ended while `queued_rows` waited for a replica; whether the limit may have changed."""
        if self.run_s == 0.0:
            self.run_s = run_s
            self._begin(now)
        self.run_s += 0.1 * (run_s - self.run_s)
        self._rows += max(1, rows)
        self._batches += 1
        self._busy &= queued_rows > 0
        faster = run_s < self._least_s
        if faster:
            self._least_s = run_s
        if now - self._start >= WINDOW_S and self._batches >= WINDOW_BATCHES * self._replicas:
            self._measured = True
            self._judge(now)
        elif faster and not self._measured:  # the first runs are the slowest
            self._bound(math.inf)
        else:
            return False
        return True

    def idle(self, now: float) -> bool:
        """Nothing is in flight; whether the limit may have changed."""
        if now - self._start < WINDOW_S:
            return False
        self._busy = False
        self._judge(now)
        return True

    def _judge(self, now: float) -> None:
        """End a window."""
        if self._busy:
            self._rates.append(self._rows / (now - self._start))
            self._bound(self._rows_in(1.0 / max(self._rates)))
            self.row_s = max(self.row_s, len(self._rates) / sum(self._rates))
        else:
            self._rates.clear()
            self._bound(self.limit_rows * GROWTH)
        self._begin(now)

    def _bound(self, limit_rows: float) -> None:
        """The limit, at most what the replicas could do if a full batch took no longer than the shortest of late."""
        least_s = min(self._least_s, self._least_before_s)
        if least_s < math.inf:
            self.row_s = max(least_s, 1e-9) / (self._replicas * self._batch_rows)
            limit_rows = min(limit_rows, self._rows_in(self.row_s))
        self.limit_rows = limit_rows

    def _rows_in(self, row_s: float) -> float:
        """By Little's law; requests that may fill `share` of it then wait for as long as they may."""
        return (DEPTH * self.run_s + self._queue_target_s) / (row_s * self._share)

    def _begin(self, now: float) -> None:
        self._start, self._rows, self._batches, self._busy = now, 0, 0, True
        if self._least_s < math.inf:
            self._least_before_s, self._least_s = self._least_s, math.inf
