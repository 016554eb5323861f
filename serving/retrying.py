"""How many batches may be sent again: a fleet that dies must not be asked for everything twice."""

from collections import deque
from dataclasses import dataclass, field


@dataclass(slots=True)
class RetryBudget:
    """At most `ratio` of the batches of a window may be retries, at least `minimum`."""

    ratio: float = 0.2
    minimum: int = 3
    window_s: float = 10.0
    _sent: deque[list[int]] = field(default_factory=deque)  # a second, and the batches in it
    _retried: deque[float] = field(default_factory=deque)

    def sent(self, now: float) -> None:
        second = int(now)
        if self._sent and self._sent[-1][0] == second:
            self._sent[-1][1] += 1
        else:
            self._forget(now)
            self._sent.append([second, 1])

    def take(self, now: float) -> bool:
        """Whether one more batch may be retried now."""
        self._forget(now)
        if len(self._retried) >= max(self.minimum, self.ratio * sum([batches for _, batches in self._sent])):
            return False
        self._retried.append(now)
        return True

    def _forget(self, now: float) -> None:
        while self._sent and self._sent[0][0] + 1 < now - self.window_s:
            self._sent.popleft()
        while self._retried and self._retried[0] < now - self.window_s:
            self._retried.popleft()
