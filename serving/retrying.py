"""How many batches may be sent again: a fleet that dies must not be asked for everything twice."""

from collections import deque
from dataclasses import dataclass, field


@dataclass(slots=True)
class RetryBudget:
    """At most `ratio` of the batches of a window may be retries, at least `minimum`."""

    ratio: float = 0.2
    minimum: int = 3
    window_s: float = 10.0
    _sent: deque[float] = field(default_factory=deque)
    _retried: deque[float] = field(default_factory=deque)

    def sent(self, now: float) -> None:
        self._sent.append(now)
        if len(self._sent) > 4096:
            self._forget(now)

    def take(self, now: float) -> bool:
        """Whether one more batch may be retried now."""
        self._forget(now)
        if len(self._retried) >= max(self.minimum, self.ratio * len(self._sent)):
            return False
        self._retried.append(now)
        return True

    def _forget(self, now: float) -> None:
        for times in (self._sent, self._retried):
            while times and times[0] < now - self.window_s:
                times.popleft()
